// GELU in GPT-2's tanh approximation and its derivative, one element, as the products' kernels need them.
#pragma once
#include "prelude.cuh"

/** 2^x and 1 / x within 2 units of the last place, one instruction each. */
TY_INLINE float exp2Approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
TY_INLINE float reciprocalApproximate(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/** s = 1 / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3): then gelu(x) = x s and (1 + tanh u) / 2 = s. */
TY_INLINE float geluGate(float x) {
  constexpr float ROOT = 0.7978845608028654f, CUBIC = 0.044715f, LOG2_E = 1.4426950408889634f;
  const float exponent = x * fmaf(-2.f * LOG2_E * ROOT * CUBIC, x * x, -2.f * LOG2_E * ROOT);
  return reciprocalApproximate(1.f + exp2Approximate(exponent));
}
/** gelu'(x) = s + 2 x s (1 - s) du/dx */
TY_INLINE float geluSlope(float x) {
  constexpr float ROOT = 0.7978845608028654f, CUBIC = 0.044715f;
  const float s = geluGate(x);
  return fmaf(x * fmaf(-s, s, s), fmaf(6.f * ROOT * CUBIC, x * x, 2.f * ROOT), s);
}

// The activations and their derivatives, in f32, for kernels that make them on the way.
#pragma once
#include "prelude.cuh"

/** 1 / (1 + exp(-x)); exactly 0 and 1 far out. */
TY_INLINE float sigmoid(float x) { return __fdividef(1.f, 1.f + expf(-x)); }

/** d(gate sigmoid(gate))/dgate, s = sigmoid(gate) */
TY_INLINE float siluSlope(float gate, float s) { return s * fmaf(gate, 1.f - s, 1.f); }

constexpr float TWO_ROOT = 1.5957691216057308f;  // 2 sqrt(2 / pi)
constexpr float CUBIC = 0.044715f, INVERSE_ROOT_2 = 0.7071067811865476f, INVERSE_ROOT_2_PI = 0.3989422804014327f;

/** x Phi(x) */
struct GeluExact {
  TY_INLINE float operator()(float x) const { return 0.5f * x * (1.f + erff(x * INVERSE_ROOT_2)); }
  TY_INLINE float slope(float x) const {
    return fmaf(x * INVERSE_ROOT_2_PI, expf(-0.5f * x * x), fmaf(0.5f, erff(x * INVERSE_ROOT_2), 0.5f));
  }
};
/** x (1 + tanh u) / 2 = x sigmoid(2u),  u = sqrt(2 / pi) (x + CUBIC x^3) */
struct GeluTanh {
  TY_INLINE float operator()(float x) const { return x * sigmoid(TWO_ROOT * fmaf(CUBIC * x * x, x, x)); }
  TY_INLINE float slope(float x) const {
    const float squares = x * x;
    const float s = sigmoid(TWO_ROOT * fmaf(CUBIC * squares, x, x));
    return fmaf(x * s * (1.f - s), TWO_ROOT * fmaf(3.f * CUBIC, squares, 1.f), s);
  }
};

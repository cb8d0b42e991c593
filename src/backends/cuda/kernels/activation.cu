// SwiGLU, GELU and rotary positions: one pass over memory each, arithmetic in f32.
#include "activation.cuh"
#include "elements.cuh"

constexpr int SIZE = 16 / sizeof(scalar_t);
/** Groups of a gated activation that a thread has on their way: two or three reads each. */
constexpr int GATED_DEPTH = 2;

/** Groups of `length` elements, `perRow` of them in a row of `columns` columns, gates and ups beside each other. */
struct GatedPlace {
  i64 out, gate, up;
  TY_INLINE GatedPlace(u32 i, u32 perRow, int columns, int length) {
    const u32 row = i / perRow, column = (i - row * perRow) * length;
    out = (i64)row * columns + column;
    gate = out + (i64)row * columns;
    up = gate + columns;
  }
};

/** out = gate sigmoid(gate) up, of `count` groups of LENGTH elements. */
template <int LENGTH>
TY_INLINE void swigluForward(scalar_t* out, const scalar_t* gateUp, u32 count, u32 perRow, int columns) {
  const u32 first = blockIdx.x * (GATED_DEPTH * blockDim.x) + threadIdx.x;
  Group<scalar_t, LENGTH> gates[GATED_DEPTH], ups[GATED_DEPTH];
#pragma unroll
  for (int k = 0; k < GATED_DEPTH; k++) {
    const u32 i = first + k * blockDim.x;
    if (i >= count) break;
    const GatedPlace place(i, perRow, columns, LENGTH);
    gates[k] = loadGroup<LENGTH>(gateUp + place.gate);
    ups[k] = loadGroup<LENGTH>(gateUp + place.up);
  }
#pragma unroll
  for (int k = 0; k < GATED_DEPTH; k++) {
    const u32 i = first + k * blockDim.x;
    if (i >= count) break;
    float y[LENGTH];
#pragma unroll
    for (int j = 0; j < LENGTH; j++) {
      const float gate = floatAt(gates[k], j);
      y[j] = gate * sigmoid(gate) * floatAt(ups[k], j);
    }
    storeGroup<LENGTH>(out + GatedPlace(i, perRow, columns, LENGTH).out, groupOf<scalar_t>(y));
  }
}
TY_KERNEL swiglu(scalar_t* out, const scalar_t* gateUp, u32 count, u32 perRow, int columns, int isGrouped) {
  if (isGrouped) swigluForward<SIZE>(out, gateUp, count, perRow, columns);
  else swigluForward<1>(out, gateUp, count, perRow, columns);
}

/** dGate = dOut up s (1 + gate (1 - s)),  dUp = dOut gate s,  s = sigmoid(gate); and out = gate s up unless it is null. */
template <int LENGTH>
TY_INLINE void swigluGradient(scalar_t* dGateUp, scalar_t* out, const scalar_t* dOut, const scalar_t* gateUp, u32 count,
                              u32 perRow, int columns) {
  const u32 first = blockIdx.x * (GATED_DEPTH * blockDim.x) + threadIdx.x;
  Group<scalar_t, LENGTH> gates[GATED_DEPTH], ups[GATED_DEPTH], dys[GATED_DEPTH];
#pragma unroll
  for (int k = 0; k < GATED_DEPTH; k++) {
    const u32 i = first + k * blockDim.x;
    if (i >= count) break;
    const GatedPlace place(i, perRow, columns, LENGTH);
    gates[k] = loadGroup<LENGTH>(gateUp + place.gate);
    ups[k] = loadGroup<LENGTH>(gateUp + place.up);
    dys[k] = loadGroup<LENGTH>(dOut + place.out);
  }
#pragma unroll
  for (int k = 0; k < GATED_DEPTH; k++) {
    const u32 i = first + k * blockDim.x;
    if (i >= count) break;
    float dGate[LENGTH], dUp[LENGTH], y[LENGTH];
#pragma unroll
    for (int j = 0; j < LENGTH; j++) {
      const float gate = floatAt(gates[k], j), up = floatAt(ups[k], j), dy = floatAt(dys[k], j), s = sigmoid(gate);
      dGate[j] = dy * up * siluSlope(gate, s);
      dUp[j] = dy * gate * s;
      y[j] = gate * s * up;
    }
    const GatedPlace place(i, perRow, columns, LENGTH);
    storeGroup<LENGTH>(dGateUp + place.gate, groupOf<scalar_t>(dGate));
    storeGroup<LENGTH>(dGateUp + place.up, groupOf<scalar_t>(dUp));
    if (out != nullptr) storeGroup<LENGTH>(out + place.out, groupOf<scalar_t>(y));
  }
}
TY_KERNEL swiglu_backward(scalar_t* dGateUp, scalar_t* out, const scalar_t* dOut, const scalar_t* gateUp, u32 count,
                          u32 perRow, int columns, int isGrouped) {
  if (isGrouped) swigluGradient<SIZE>(dGateUp, out, dOut, gateUp, count, perRow, columns);
  else swigluGradient<1>(dGateUp, out, dOut, gateUp, count, perRow, columns);
}

TY_KERNEL gelu(scalar_t* out, const scalar_t* x, Extent extent) { mapElements<SIZE>(out, x, extent, GeluExact()); }
TY_KERNEL gelu_tanh(scalar_t* out, const scalar_t* x, Extent extent) { mapElements<SIZE>(out, x, extent, GeluTanh()); }
TY_KERNEL gelu_backward(scalar_t* dx, const scalar_t* dOut, const scalar_t* x, Extent extent) {
  mapElements<SIZE>(dx, dOut, x, extent, [](float dy, float a) { return dy * GeluExact().slope(a); });
}
TY_KERNEL gelu_tanh_backward(scalar_t* dx, const scalar_t* dOut, const scalar_t* x, Extent extent) {
  mapElements<SIZE>(dx, dOut, x, extent, [](float dy, float a) { return dy * GeluTanh().slope(a); });
}

#ifdef TABLE_DTYPE
typedef TypeOf<TABLE_DTYPE>::type table_t;
/** Heads that a thread turns by the same angles. */
constexpr int HEADS = 4;
/** Elements of one access to the tables: those of a group come in several. */
template <int LENGTH>
struct Angles {
  static constexpr int PART = LENGTH * sizeof(table_t) > 16 ? 16 / sizeof(table_t) : LENGTH;
  float at[LENGTH];
  TY_INLINE void load(const table_t* p) {
#pragma unroll
    for (int i = 0; i < LENGTH; i += PART) {
      const Group<table_t, PART> part = loadGroup<PART>(p + i);
#pragma unroll
      for (int j = 0; j < PART; j++) at[i + j] = floatAt(part, j);
    }
  }
};

/**
 * Thread: LENGTH pairs (a, b), `half` columns apart, in up to HEADS heads of a row, headGroups heads apart.
 *     a' = a cos - b sin,  b' = b cos + a sin
 */
template <int LENGTH>
TY_INLINE void turn(scalar_t* out, const scalar_t* x, const i32* positions, const table_t* cosines, const table_t* sines,
                    u32 rows, i64 outStride, i64 inStride, u32 heads, u32 half, float sign) {
  const u32 perHead = half / LENGTH, headGroups = (heads + HEADS - 1) / HEADS, perRow = perHead * headGroups;
  const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  const u32 row = i / perRow;
  if (row >= rows) return;
  const u32 inRow = i - row * perRow, firstHead = inRow / perHead, k = (inRow - firstHead * perHead) * LENGTH;
  Group<scalar_t, LENGTH> a[HEADS], b[HEADS];
#pragma unroll
  for (int h = 0; h < HEADS; h++) {
    const u32 head = firstHead + h * headGroups;
    if (head >= heads) break;
    const scalar_t* from = x + row * inStride + head * 2 * half + k;
    a[h] = loadGroup<LENGTH>(from);
    b[h] = loadGroup<LENGTH>(from + half);
  }
  Angles<LENGTH> c, s;
  const i64 angle = (i64)positions[row] * half + k;
  c.load(cosines + angle);
  s.load(sines + angle);
#pragma unroll
  for (int h = 0; h < HEADS; h++) {
    const u32 head = firstHead + h * headGroups;
    if (head >= heads) break;
    float first[LENGTH], second[LENGTH];
#pragma unroll
    for (int j = 0; j < LENGTH; j++) {
      const float p = floatAt(a[h], j), q = floatAt(b[h], j), turned = sign * s.at[j];
      first[j] = p * c.at[j] - q * turned;
      second[j] = q * c.at[j] + p * turned;
    }
    scalar_t* to = out + row * outStride + head * 2 * half + k;
    storeGroup<LENGTH>(to, groupOf<scalar_t>(first));
    storeGroup<LENGTH>(to + half, groupOf<scalar_t>(second));
  }
}
TY_KERNEL rope(scalar_t* out, const scalar_t* x, const i32* positions, const table_t* cosines, const table_t* sines,
               i64 outStride, i64 inStride, u32 rows, u32 heads, u32 half, float sign, int isGrouped) {
  if (isGrouped) turn<SIZE>(out, x, positions, cosines, sines, rows, outStride, inStride, heads, half, sign);
  else turn<1>(out, x, positions, cosines, sines, rows, outStride, inStride, heads, half, sign);
}
#endif

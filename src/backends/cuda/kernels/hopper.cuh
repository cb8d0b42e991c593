// What kernels for Hopper (sm_90a) share: mbarriers, tile copies by the copy engine (TMA), warpgroup products (wgmma) with
// their shared-memory descriptors, and the barriers and register counts of specialised warpgroups.
//
// Tiles in shared memory are "panels": rows of 64 16-bit elements (128 bytes), 128-byte swizzle, 1024-byte aligned. That
// is what a TensorMap with box [64, ..] and swizzle 128 writes; a tile of 128 columns is two panels one after the other.
// 16-byte chunk c of row r of a panel lies at r * 128 + ((c ^ (r & 7)) << 4).
//
// wgmma, per warpgroup: D [64, N] f32 += A [64, 16] B [16, N]. Warp w has rows 16 w ..; lane 4 g + t holds in d[4 j + i]
// row g + 8 (i / 2), column 8 j + 2 t + i % 2. A from registers: a[0] = columns 2 t, 2 t + 1 of row g, a[1] of row g + 8,
// a[2] and a[3] the same of columns + 8: the accumulators d[8 k .. 8 k + 7] of a product, packed in pairs, are the A of
// step k of the next.
#pragma once
#include "prelude.cuh"

constexpr u32 PANEL_ROW_BYTES = 128;

TY_INLINE u32 sharedAddress(const void* p) { return (u32)__cvta_generic_to_shared(p); }

/** Two floats as two scalar_t, `low` in the lower half. */
TY_INLINE u32 packScalars(float low, float high) {
#if TY_DTYPE == 1
  return packBf16(low, high);
#else
  return packF16(low, high);
#endif
}

// ---- Roles of warpgroups ----

template <int REGISTERS>
TY_INLINE void increaseRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS>
TY_INLINE void decreaseRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

/** Named barrier `id` (1 .. 15; 0 is __syncthreads): waits until `threads` threads have come to `sync` or `arrive`. */
TY_INLINE void barrierSync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
TY_INLINE void barrierArrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- mbarriers: 8 bytes of shared memory each, by address ----

/** A phase ends after `arrivals` arrivals and all bytes that were announced. */
TY_INLINE void mbarrierInit(u32 barrier, u32 arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
/** By the initialising thread after the last mbarrierInit; a __syncthreads must follow. */
TY_INLINE void mbarrierInitFence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
TY_INLINE void mbarrierArrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/** Arrives, and announces `bytes` that copies will bring in this phase. */
TY_INLINE void mbarrierExpect(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
/** Waits for the end of the phase of this parity; the first phase has parity 0, a new barrier counts as past parity 1. */
TY_INLINE void mbarrierWait(u32 barrier, u32 parity) {
  u32 isDone;
  do {
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(isDone)
        : "r"(barrier), "r"(parity)
        : "memory");
  } while (!isDone);
}

/** Between ordinary accesses to shared memory and those of TMA or wgmma, in each thread, before the barrier. */
TY_INLINE void fenceAsyncProxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- TMA ----

/** A kernel argument: `const __grid_constant__ TensorMap`. */
struct alignas(64) TensorMap {
  u8 bytes[128];
};

TY_INLINE void prefetchTensorMap(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
/** Copies the box at (c0 innermost .. c3) into shared memory; elements outside the tensor become zero. One thread. */
TY_INLINE void copyBox(u32 shared, const TensorMap& map, u32 barrier, int c0, int c1, int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3,%4,%5,%6}], [%2];"
      ::"r"(shared), "l"(&map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}

/** Copies `bytes` (a multiple of 16) into shared memory. One thread. */
TY_INLINE void copyBytes(u32 shared, const void* global, u32 bytes, u32 barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared),
               "l"(global), "r"(bytes), "r"(barrier)
               : "memory");
}
/** Copies from shared to global memory, in a group that commitBulk closes. One thread, as for all of the following. */
TY_INLINE void storeBytes(void* global, u32 shared, u32 bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global), "r"(shared), "r"(bytes)
               : "memory");
}
TY_INLINE void addFloats(float* global, u32 shared, u32 bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(global), "r"(shared),
               "r"(bytes)
               : "memory");
}
TY_INLINE void addIntegers(void* global, u32 shared, u32 bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.s32 [%0], [%1], %2;" ::"l"(global), "r"(shared),
               "r"(bytes)
               : "memory");
}
/** Copies a box from shared to global memory, what lies inside the tensor; closed and waited for like storeBytes. */
TY_INLINE void storeBox(const TensorMap& map, u32 shared, int c0, int c1, int c2, int c3) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(&map),
               "r"(shared), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
               : "memory");
}
TY_INLINE void commitBulk() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
/** Until at most PENDING groups still read shared memory. */
template <int PENDING>
TY_INLINE void waitBulkRead() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
}
TY_INLINE void waitBulk() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// ---- wgmma ----

/** Before the first product, and whenever ordinary instructions wrote registers that the next product uses. */
TY_INLINE void wgmmaFence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
TY_INLINE void wgmmaCommit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/** Waits until at most PENDING of the committed groups are unfinished; `keepAfterWait` must follow for their results. */
template <int PENDING>
TY_INLINE void wgmmaWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
/** Keeps the compiler from moving uses of the registers to before this point, and what makes them to behind it. */
template <int COUNT>
TY_INLINE void keepAfterWait(float (&d)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(d[i])::"memory");
}
template <int COUNT>
TY_INLINE void keepAfterWait(u32 (&a)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; i++) asm volatile("" : "+r"(a[i])::"memory");
}

constexpr u64 DESCRIPTOR_SWIZZLE_128 = 1ull << 62;

/**
 * An operand whose rows (m or n) are rows of a panel and whose k runs along the 64 columns. `address` is that of the first
 * row (a multiple of 8) plus 32 bytes for each step of 16 k.
 */
TY_INLINE u64 descriptorOfRows(u32 address) {
  return DESCRIPTOR_SWIZZLE_128 | (u64)(1024 >> 4) << 32 | (u64)1 << 16 | (u64)((address & 0x3ffff) >> 4);
}
/**
 * A transposed operand: k runs along the rows of the panels, m or n along the columns, the next 64 in the panel
 * `panelBytes` further on. `address` is that of the first row of the step: 2048 bytes for each step of 16 k.
 */
TY_INLINE u64 descriptorOfColumns(u32 address, u32 panelBytes) {
  return DESCRIPTOR_SWIZZLE_128 | (u64)(1024 >> 4) << 32 | (u64)(panelBytes >> 4) << 16 |
         (u64)((address & 0x3ffff) >> 4);
}
/** A descriptor that starts `bytes` further on. */
TY_INLINE u64 advance(u64 descriptor, u32 bytes) {
  return (descriptor & 0xffffffff00000000ull) | ((u32)descriptor + (bytes >> 4));
}

/**
 * Products with N columns: `shared` takes A and B from shared memory, `registers` takes A from registers. TRANSPOSE 0 says
 * descriptorOfRows, 1 descriptorOfColumns. With `accumulate` 0 d is overwritten.
 */
template <int N>
struct Wgmma;

#if TY_DTYPE == 1
#define TY_WGMMA_TYPES ".f32.bf16.bf16"
#else
#define TY_WGMMA_TYPES ".f32.f16.f16"
#endif

// Operands of the instruction as text and as constraints: the first 4, 8, 12 .. accumulators of d.
#define TY_TEXT_4 "%0,%1,%2,%3"
#define TY_TEXT_8 "%0,%1,%2,%3,%4,%5,%6,%7"
#define TY_TEXT_16 TY_TEXT_8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define TY_TEXT_24 TY_TEXT_16 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define TY_TEXT_32 TY_TEXT_24 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define TY_TEXT_40 TY_TEXT_32 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define TY_TEXT_48 TY_TEXT_40 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define TY_TEXT_56 TY_TEXT_48 ",%48,%49,%50,%51,%52,%53,%54,%55"
#define TY_TEXT_64 TY_TEXT_56 ",%56,%57,%58,%59,%60,%61,%62,%63"
#define TY_TEXT_72 TY_TEXT_64 ",%64,%65,%66,%67,%68,%69,%70,%71"
#define TY_TEXT_80 TY_TEXT_72 ",%72,%73,%74,%75,%76,%77,%78,%79"
#define TY_TEXT_88 TY_TEXT_80 ",%80,%81,%82,%83,%84,%85,%86,%87"
#define TY_TEXT_96 TY_TEXT_88 ",%88,%89,%90,%91,%92,%93,%94,%95"
#define TY_TEXT_104 TY_TEXT_96 ",%96,%97,%98,%99,%100,%101,%102,%103"
#define TY_TEXT_112 TY_TEXT_104 ",%104,%105,%106,%107,%108,%109,%110,%111"
#define TY_TEXT_120 TY_TEXT_112 ",%112,%113,%114,%115,%116,%117,%118,%119"
#define TY_TEXT_128 TY_TEXT_120 ",%120,%121,%122,%123,%124,%125,%126,%127"
#define TY_TEXT_12 TY_TEXT_8 ",%8,%9,%10,%11"
#define TY_TEXT_20 TY_TEXT_16 ",%16,%17,%18,%19"
#define TY_TEXT_28 TY_TEXT_24 ",%24,%25,%26,%27"
#define TY_TEXT_36 TY_TEXT_32 ",%32,%33,%34,%35"
#define TY_TEXT_44 TY_TEXT_40 ",%40,%41,%42,%43"
#define TY_TEXT_52 TY_TEXT_48 ",%48,%49,%50,%51"
#define TY_TEXT_60 TY_TEXT_56 ",%56,%57,%58,%59"
#define TY_FOUR(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define TY_EIGHT(i) \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define TY_LIST_4 TY_FOUR(0)
#define TY_LIST_8 TY_EIGHT(0)
#define TY_LIST_16 TY_LIST_8, TY_EIGHT(8)
#define TY_LIST_24 TY_LIST_16, TY_EIGHT(16)
#define TY_LIST_32 TY_LIST_24, TY_EIGHT(24)
#define TY_LIST_40 TY_LIST_32, TY_EIGHT(32)
#define TY_LIST_48 TY_LIST_40, TY_EIGHT(40)
#define TY_LIST_56 TY_LIST_48, TY_EIGHT(48)
#define TY_LIST_64 TY_LIST_56, TY_EIGHT(56)
#define TY_LIST_72 TY_LIST_64, TY_EIGHT(64)
#define TY_LIST_80 TY_LIST_72, TY_EIGHT(72)
#define TY_LIST_88 TY_LIST_80, TY_EIGHT(80)
#define TY_LIST_96 TY_LIST_88, TY_EIGHT(88)
#define TY_LIST_104 TY_LIST_96, TY_EIGHT(96)
#define TY_LIST_112 TY_LIST_104, TY_EIGHT(104)
#define TY_LIST_120 TY_LIST_112, TY_EIGHT(112)
#define TY_LIST_128 TY_LIST_120, TY_EIGHT(120)
#define TY_LIST_12 TY_LIST_8, TY_FOUR(8)
#define TY_LIST_20 TY_LIST_16, TY_FOUR(16)
#define TY_LIST_28 TY_LIST_24, TY_FOUR(24)
#define TY_LIST_36 TY_LIST_32, TY_FOUR(32)
#define TY_LIST_44 TY_LIST_40, TY_FOUR(40)
#define TY_LIST_52 TY_LIST_48, TY_FOUR(48)
#define TY_LIST_60 TY_LIST_56, TY_FOUR(56)

// N columns, R = N / 2 accumulators; the operands after them have the numbers R, R + 1 ..
#define TY_WGMMA(N, R, R0, R1, R2, R3, R4, R5, R6)                                                                      \
  template <>                                                                                                          \
  struct Wgmma<N> {                                                                                                    \
    template <int TRANSPOSE_A, int TRANSPOSE_B>                                                                        \
    static TY_INLINE void shared(float (&d)[R], u64 a, u64 b, int accumulate) {                                        \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #R2 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N               \
                   "k16" TY_WGMMA_TYPES " {" TY_TEXT_##R "}, %" #R0 ", %" #R1 ", p, 1, 1, %" #R3 ", %" #R4 ";\n}\n"    \
                   : TY_LIST_##R                                                                                       \
                   : "l"(a), "l"(b), "r"(accumulate), "n"(TRANSPOSE_A), "n"(TRANSPOSE_B));                             \
    }                                                                                                                  \
    template <int TRANSPOSE_B>                                                                                         \
    static TY_INLINE void registers(float (&d)[R], u32 a0, u32 a1, u32 a2, u32 a3, u64 b, int accumulate) {            \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #R5 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N               \
                   "k16" TY_WGMMA_TYPES " {" TY_TEXT_##R "}, {%" #R0 ",%" #R1 ",%" #R2 ",%" #R3 "}, %" #R4             \
                   ", p, 1, 1, %" #R6 ";\n}\n"                                                                         \
                   : TY_LIST_##R                                                                                       \
                   : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(accumulate), "n"(TRANSPOSE_B));                   \
    }                                                                                                                  \
  };

TY_WGMMA(8, 4, 4, 5, 6, 7, 8, 9, 10)
TY_WGMMA(16, 8, 8, 9, 10, 11, 12, 13, 14)
TY_WGMMA(24, 12, 12, 13, 14, 15, 16, 17, 18)
TY_WGMMA(32, 16, 16, 17, 18, 19, 20, 21, 22)
TY_WGMMA(40, 20, 20, 21, 22, 23, 24, 25, 26)
TY_WGMMA(48, 24, 24, 25, 26, 27, 28, 29, 30)
TY_WGMMA(56, 28, 28, 29, 30, 31, 32, 33, 34)
TY_WGMMA(64, 32, 32, 33, 34, 35, 36, 37, 38)
TY_WGMMA(72, 36, 36, 37, 38, 39, 40, 41, 42)
TY_WGMMA(80, 40, 40, 41, 42, 43, 44, 45, 46)
TY_WGMMA(88, 44, 44, 45, 46, 47, 48, 49, 50)
TY_WGMMA(96, 48, 48, 49, 50, 51, 52, 53, 54)
TY_WGMMA(104, 52, 52, 53, 54, 55, 56, 57, 58)
TY_WGMMA(112, 56, 56, 57, 58, 59, 60, 61, 62)
TY_WGMMA(120, 60, 60, 61, 62, 63, 64, 65, 66)
TY_WGMMA(128, 64, 64, 65, 66, 67, 68, 69, 70)
TY_WGMMA(144, 72, 72, 73, 74, 75, 76, 77, 78)
TY_WGMMA(160, 80, 80, 81, 82, 83, 84, 85, 86)
TY_WGMMA(176, 88, 88, 89, 90, 91, 92, 93, 94)
TY_WGMMA(192, 96, 96, 97, 98, 99, 100, 101, 102)
TY_WGMMA(208, 104, 104, 105, 106, 107, 108, 109, 110)
TY_WGMMA(224, 112, 112, 113, 114, 115, 116, 117, 118)
TY_WGMMA(240, 120, 120, 121, 122, 123, 124, 125, 126)
TY_WGMMA(256, 128, 128, 129, 130, 131, 132, 133, 134)

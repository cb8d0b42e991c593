// Bytes per second of a card: reading device memory, reading what lies in the second-level cache, and reading shared
// memory. Prints one line of JSON. nvcc -O3 -arch=native bandwidth.cu -o bandwidth && ./bandwidth
#include <cstdio>

__global__ void readGlobal(const float4* data, size_t count, int rounds, float* sink) {
  float sum = 0;
  for (int round = 0; round < rounds; round++) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
      const float4 x = __ldcg(data + i);
      sum += x.x + x.y + x.z + x.w;
    }
  }
  if (sum == 1234.5f) *sink = sum;
}

__global__ void readShared(int rounds, float* sink) {
  extern __shared__ float4 tile[];
  const int count = 2048;
  for (int i = threadIdx.x; i < count; i += blockDim.x) tile[i] = make_float4(i, 1, 2, 3);
  __syncthreads();
  float sum = 0;
  for (int round = 0; round < rounds; round++) {
    const int shift = round * 33;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float4 x = tile[(threadIdx.x + i * 512 + shift) % count];
      sum += x.x + x.y + x.z + x.w;
    }
  }
  if (sum == 1234.5f) *sink = sum;
}

template <typename Launch>
float bestMs(Launch launch) {
  cudaEvent_t a, b;
  cudaEventCreate(&a);
  cudaEventCreate(&b);
  float best = 1e30f;
  for (int i = 0; i < 8; i++) {
    cudaEventRecord(a);
    launch();
    cudaEventRecord(b);
    cudaEventSynchronize(b);
    float ms;
    cudaEventElapsedTime(&ms, a, b);
    if (i > 1 && ms < best) best = ms;
  }
  return best;
}

int main() {
  cudaDeviceProp card;
  cudaGetDeviceProperties(&card, 0);
  const int blocks = card.multiProcessorCount * 4;
  const size_t large = (size_t)4 << 30, small = (size_t)16 << 20;
  float4* data;
  float* sink;
  cudaMalloc(&data, large);
  cudaMalloc(&sink, 4);
  cudaMemset(data, 1, large);
  const float memory = bestMs([&] { readGlobal<<<blocks, 512>>>(data, large / 16, 1, sink); });
  const float cache = bestMs([&] { readGlobal<<<blocks, 512>>>(data, small / 16, 64, sink); });
  const int rounds = 4096;
  const float shared = bestMs([&] { readShared<<<blocks, 512, 32768>>>(rounds, sink); });
  const double sharedBytes = (double)blocks * 512 * rounds * 4 * 16;
  printf("{\"card\": \"%s\", \"memoryGBs\": %.0f, \"cacheGBs\": %.0f, \"sharedGBs\": %.0f, \"status\": %d}\n", card.name,
         large / memory / 1e6, 64.0 * small / cache / 1e6, sharedBytes / shared / 1e6, (int)cudaDeviceSynchronize());
}

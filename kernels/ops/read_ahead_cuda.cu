#include "kernels/ops/read_ahead_cuda.h"

#include <algorithm>
#include <cassert>

#include "kernels/ops/dependent_launch.cuh"
#include "kernels/ops/read_ahead.cuh"

namespace gguf_offload::cuda {
namespace {

constexpr int kBlocks = 128;
constexpr int kThreads = 64;

struct Matrices {
  ReadAhead matrices[kMostReadAhead];
};

__global__ void __launch_bounds__(kThreads)
    BringAllNearerKernel(const __grid_constant__ Matrices a, float cycles, const int32_t* count,
                         int32_t least) {
  LetLaterKernelsBegin();
  AwaitEarlierKernels();
  if (*count < least) return;
#pragma unroll 1
  for (int i = 0; i < kMostReadAhead; ++i) {
    BringNearer(a.matrices[i], cycles, blockIdx.x * kThreads + threadIdx.x, kBlocks * kThreads);
  }
}

}  // namespace

void BringAllNearer(std::span<const ReadAhead> matrices, const int32_t* count, int32_t least,
                    cudaStream_t stream) {
  assert(matrices.size() <= kMostReadAhead);
  Matrices a;
  std::copy(matrices.begin(), matrices.end(), a.matrices);
  LaunchDependent(BringAllNearerKernel, kBlocks, kThreads, 0, stream, a, ReadAheadCycles(), count,
                  least);
}

}  // namespace gguf_offload::cuda

// Copies of 16 bytes from global to shared memory that do not wait (cp.async, from Ampere on);
// before Ampere plain loads and stores, which do.
#ifndef KERNELS_MATMUL_ASYNC_COPY_CUH_
#define KERNELS_MATMUL_ASYNC_COPY_CUH_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace gguf_offload::cuda {

// If `wanted`. Both 16-byte aligned. Streamed weights are read once: they go past the first-level
// cache, and in the second-level one they are the first to make room, before activations and code.
__device__ __forceinline__ void AsyncCopy16(uint8_t* shared, const uint8_t* global, bool wanted) {
#if __CUDA_ARCH__ >= 800
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  // Without a branch, so that neighbouring copies share their arithmetic.
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %2, 0;"
      " @p cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %3;}" ::"r"(to),
      "l"(global), "r"(static_cast<int>(wanted)), "l"(policy)
      : "memory");
#else
  if (wanted) *reinterpret_cast<uint4*>(shared) = *reinterpret_cast<const uint4*>(global);
#endif
}

// Ends a batch of copies.
__device__ __forceinline__ void AsyncCommit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits for this thread's batches but the last kPending; others' need a barrier then.
template <int kPending>
__device__ __forceinline__ void AsyncWait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MATMUL_ASYNC_COPY_CUH_

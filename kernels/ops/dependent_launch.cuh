// Launches that need not wait for the kernels ahead of them in the stream to end: from compute
// capability 9.0 on a kernel is brought to the GPU, and does what it can without their results,
// while they run ("programmatic dependent launch" of the CUDA C++ Programming Guide). A step of
// hundreds of short kernels mostly consists of their beginnings and ends.
//
// A kernel that is launched so calls AwaitEarlierKernels() in each of its threads, also in those
// that then have nothing to do, before it reads what earlier kernels of the stream wrote and before
// it writes to memory. Only weights, which no kernel writes, and a step's inputs may be read
// before: the first kernels of a step, which wait for the inputs, let no later one begin until they
// have.
#ifndef KERNELS_OPS_DEPENDENT_LAUNCH_CUH_
#define KERNELS_OPS_DEPENDENT_LAUNCH_CUH_

#include <cuda_runtime_api.h>

#include <cstddef>

namespace gguf_offload::cuda {

#ifdef CUDA_EMULATOR

inline void LetLaterKernelsBegin() {}
inline void AwaitEarlierKernels() {}

template <class... Parameters, class... Arguments>
void LaunchDependent(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                     cudaStream_t stream, Arguments... arguments) {
  kernel<<<grid, block, shared_bytes, stream>>>(arguments...);
}

#else

// Lets kernels that were launched as dependents begin once every block has called this or ended.
__device__ __forceinline__ void LetLaterKernelsBegin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Waits until all earlier kernels of the stream have ended and what they wrote is visible.
__device__ __forceinline__ void AwaitEarlierKernels() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Of the device that is current when it is called first.
inline bool HasDependentLaunches() {
  static const bool has = [] {
    int device = 0, major = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    return major >= 9;
  }();
  return has;
}

// kernel<<<grid, block, shared_bytes, stream>>>(arguments...). Errors are left to
// cudaGetLastError, as those of other launches.
template <class... Parameters, class... Arguments>
void LaunchDependent(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                     cudaStream_t stream, Arguments... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = HasDependentLaunches() ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

#endif  // CUDA_EMULATOR

// Lets the first-level cache have what `kernel` does not need of the memory that it shares with
// shared memory, also if another division would let more of the kernel's blocks run at once: a
// processor otherwise keeps the division that an earlier kernel wanted.
template <class Kernel>
void PreferCache(Kernel kernel) {
  cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                       cudaSharedmemCarveoutMaxL1);
}

}  // namespace gguf_offload::cuda

#endif  // KERNELS_OPS_DEPENDENT_LAUNCH_CUH_

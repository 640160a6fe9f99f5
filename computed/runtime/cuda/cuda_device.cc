#include "computed/runtime/cuda/cuda_device.h"

#include "computed/runtime/cuda/cuda_status.h"

namespace gguf_offload {

absl::StatusOr<std::unique_ptr<CudaDevice>> CudaDevice::Open() {
  int devices = 0;
  const cudaError_t counted = cudaGetDeviceCount(&devices);
  if (counted != cudaSuccess || devices == 0) {
    return absl::FailedPreconditionError(absl::StrCat("no GPU: ", counted != cudaSuccess
                                                                      ? cudaGetErrorString(counted)
                                                                      : "the driver shows none"));
  }
  std::unique_ptr<CudaDevice> device(new CudaDevice);
  // The first call that needs one makes the context.
  absl::Status status = CudaStatus(cudaSetDevice(device->ordinal_), "cudaSetDevice");
  if (!status.ok()) return status;
  status = CudaStatus(cudaFree(nullptr), "making a CUDA context");
  if (!status.ok()) return status;
  device->free_at_start_ = device->FreeBytes();

  cudaDeviceProp properties;
  status =
      CudaStatus(cudaGetDeviceProperties(&properties, device->ordinal_), "the GPU's properties");
  if (!status.ok()) return status;
  device->name_ = properties.name;
  device->multiprocessors_ = properties.multiProcessorCount;
  device->cache_bytes_ = properties.l2CacheSize;
  for (cudaStream_t* stream : {&device->compute_, &device->copy_}) {
    status = CudaStatus(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking), "a stream");
    if (!status.ok()) return status;
  }
  return device;
}

CudaDevice::~CudaDevice() {
  if (compute_ != nullptr) cudaStreamDestroy(compute_);
  if (copy_ != nullptr) cudaStreamDestroy(copy_);
}

absl::Status CudaDevice::MakeCurrent() const {
  return CudaStatus(cudaSetDevice(ordinal_), "cudaSetDevice");
}

uint64_t CudaDevice::FreeBytes() const {
  size_t free = 0, total = 0;
  return cudaMemGetInfo(&free, &total) == cudaSuccess ? free : 0;
}

uint64_t CudaDevice::UsedBytes() const {
  const uint64_t free = FreeBytes();
  return free >= free_at_start_ ? 0 : free_at_start_ - free;
}

}  // namespace gguf_offload

#include "third_party/cuda/device_available.h"

#include <cuda_runtime_api.h>

namespace gguf_offload::cuda {

bool DeviceAvailable() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
}

}  // namespace gguf_offload::cuda

// Whether the tests of CUDA code can run on this machine.
#ifndef THIRD_PARTY_CUDA_DEVICE_AVAILABLE_H_
#define THIRD_PARTY_CUDA_DEVICE_AVAILABLE_H_

namespace gguf_offload::cuda {

// True if there is a GPU, and a driver for it.
bool DeviceAvailable();

}  // namespace gguf_offload::cuda

#endif  // THIRD_PARTY_CUDA_DEVICE_AVAILABLE_H_

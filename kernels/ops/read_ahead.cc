#include "kernels/ops/read_ahead.h"

#include <cuda_runtime_api.h>

#include <algorithm>

namespace gguf_offload::cuda {

float ReadAheadCycles() {
  static const float cycles = [] {
    int device = 0;
    cudaGetDevice(&device);
    const auto attribute = [device](cudaDeviceAttr name) {
      int value = 0;
      cudaDeviceGetAttribute(&value, name, device);
      return static_cast<float>(std::max(value, 1));
    };
    // The memory gives a bit of each line of its bus at both edges of its clock.
    const float line_bits = 8 * 128;
    const float memory_cycles = line_bits / (2 * attribute(cudaDevAttrGlobalMemoryBusWidth));
    const float cycles = 1.5f * memory_cycles * attribute(cudaDevAttrClockRate) /
                         attribute(cudaDevAttrMemoryClockRate);
    // Not every driver tells the clocks; nobody is to wait for a hint then.
    return std::clamp(cycles, 0.02f, 4.0f);
  }();
  return cycles;
}

}  // namespace gguf_offload::cuda

// A matrix that kernels are going to read soon, of which others that leave the GPU's memory at rest
// bring a part nearer.
#ifndef KERNELS_OPS_READ_AHEAD_H_
#define KERNELS_OPS_READ_AHEAD_H_

#include <cstdint>

namespace gguf_offload::cuda {

// Null: nothing.
struct ReadAhead {
  const uint8_t* data = nullptr;  // device memory
  int64_t bytes = 0;
  int64_t most_bytes = 0;  // that are brought nearer

  // Every how many-th line is.
  constexpr int64_t step() const { return (bytes + most_bytes - 1) / most_bytes; }
};

// Cycles of the current device between two lines of memory that take two thirds of its speed: what
// other kernels ask for would wait behind more. Of the device that is current when it is called
// first.
float ReadAheadCycles();

}  // namespace gguf_offload::cuda

#endif  // KERNELS_OPS_READ_AHEAD_H_

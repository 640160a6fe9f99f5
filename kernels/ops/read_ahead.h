// A part of a matrix that kernels are going to read soon.
#ifndef KERNELS_OPS_READ_AHEAD_H_
#define KERNELS_OPS_READ_AHEAD_H_

#include <cstdint>

namespace gguf_offload::cuda {

// `bytes` of each of `rows` rows that are row_bytes apart. Null: nothing.
struct ReadAhead {
  const uint8_t* data = nullptr;
  int64_t row_bytes = 0;
  int rows = 0;
  int bytes = 0;
};

}  // namespace gguf_offload::cuda

#endif  // KERNELS_OPS_READ_AHEAD_H_

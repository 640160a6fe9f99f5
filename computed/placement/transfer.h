// Which bytes of a model's files go where in a piece of memory.
#ifndef COMPUTED_PLACEMENT_TRANSFER_H_
#define COMPUTED_PLACEMENT_TRANSFER_H_

#include <cstdint>
#include <vector>

#include "computed/model/model_tensors.h"

namespace gguf_offload {

// Consecutive bytes of one file.
struct FileRun {
  uint32_t shard = 0;
  uint64_t offset = 0;  // bytes from the start of the file
  uint64_t bytes = 0;
  uint64_t destination = 0;  // bytes from the start of the memory
};

// A tensor, or some rows of one, in the memory.
struct PlacedTensor {
  const ModelTensor* tensor = nullptr;
  int64_t first_row = 0;
  int64_t rows = 0;
  uint64_t destination = 0;  // bytes from the start of the memory
};

struct Transfer {
  std::vector<FileRun> runs;
  std::vector<PlacedTensor> tensors;
  uint64_t bytes = 0;         // that the runs move
  uint64_t memory_bytes = 0;  // that the memory must have

  bool empty() const { return runs.empty(); }
};

// Rows of a tensor to be moved; `rows` 0: all of it.
struct TensorRows {
  const ModelTensor* tensor = nullptr;
  int64_t first_row = 0;
  int64_t rows = 0;
};

// Moves `tensors` with as few copies as possible: what lies side by side in a file (but for the
// padding between tensors) goes in one. Every tensor keeps its file offset modulo 256, so that the
// file's alignment is the memory's.
Transfer PlanTransfer(std::vector<TensorRows> tensors);

}  // namespace gguf_offload

#endif  // COMPUTED_PLACEMENT_TRANSFER_H_

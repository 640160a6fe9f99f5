// The small inputs of a step (tokens, positions, page tables) on their way to the GPU: written by
// the host into mapped memory, copied by a kernel, so that they never queue behind weights.
#ifndef COMPUTED_RUNTIME_CUDA_STEP_INPUTS_H_
#define COMPUTED_RUNTIME_CUDA_STEP_INPUTS_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "computed/runtime/cuda/device_arena.h"
#include "computed/runtime/step_batch.h"
#include "kernels/attention/attention_cuda.h"

namespace gguf_offload {

// How many of everything a step has. Steps of equal shape have their inputs at equal addresses.
struct StepShape {
  int rows = 0;
  int logit_rows = 0;
  int decode_rows = 0;  // rows that are the only one of their sequence
  int tiles = 0;        // of the other sequences' rows

  friend bool operator==(const StepShape&, const StepShape&) = default;
};

class StepInputs {
 public:
  struct Limits {
    int rows = 0;
    int logit_rows = 0;
    int sequences = 0;
    int kv_pages = 0;
  };

  static uint64_t DeviceBytes(const Limits& limits);
  static absl::StatusOr<std::unique_ptr<StepInputs>> Create(const Limits& limits,
                                                            DeviceArena& arena);
  ~StepInputs();
  StepInputs(const StepInputs&) = delete;
  StepInputs& operator=(const StepInputs&) = delete;

  // What `batch` needs, with `padded_rows` rows instead of its own where that is not 0 (decode
  // steps only): rows that are no token's have negative positions.
  static StepShape ShapeOf(const StepBatch& batch, int padded_rows);

  // Writes a step's inputs. The copies of the step before must be done.
  void Write(const StepBatch& batch, const StepShape& shape);
  // Puts the copy to the GPU on `stream`.
  void Copy(cudaStream_t stream) const;

  // Device memory, of the shape last written.
  const int32_t* tokens() const { return device_ + tokens_; }          // (rows)
  const int32_t* positions() const { return device_ + positions_; }    // (rows)
  const int32_t* row_pages() const { return device_ + row_pages_; }    // (rows)
  const int32_t* logit_rows() const { return device_ + logit_rows_; }  // (logit_rows)
  const cuda::DecodeRow* decode_rows() const {                         // (decode_rows)
    return reinterpret_cast<const cuda::DecodeRow*>(device_ + decode_rows_);
  }
  const cuda::PrefillTile* tiles() const {  // (tiles)
    return reinterpret_cast<const cuda::PrefillTile*>(device_ + tiles_);
  }
  const int32_t* pages() const { return device_; }

 private:
  explicit StepInputs(const Limits& limits) : limits_(limits) {}
  static int64_t Words(const Limits& limits);
  void LayOut(const StepShape& shape);

  const Limits limits_;
  int32_t* host_ = nullptr;    // mapped
  int32_t* mapped_ = nullptr;  // its device address
  int32_t* device_ = nullptr;
  // In words from the beginning; pages come first.
  int64_t tokens_ = 0, positions_ = 0, row_pages_ = 0, logit_rows_ = 0, decode_rows_ = 0;
  int64_t tiles_ = 0, words_ = 0;
};

}  // namespace gguf_offload

#endif  // COMPUTED_RUNTIME_CUDA_STEP_INPUTS_H_

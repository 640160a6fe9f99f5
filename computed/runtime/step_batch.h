// The tokens that one step runs, and the sequences they belong to.
#ifndef COMPUTED_RUNTIME_STEP_BATCH_H_
#define COMPUTED_RUNTIME_STEP_BATCH_H_

#include <cstdint>
#include <vector>

namespace gguf_offload {

struct StepBatch {
  // Consecutive rows of one sequence: one row while it decodes, more while its prompt is processed.
  struct Sequence {
    int first_row = 0;
    int rows = 0;
    int first_position = 0;      // position in the sequence of the first row
    std::vector<int32_t> pages;  // KV pages in order of position, enough for the last row
  };

  std::vector<int32_t> tokens;     // (rows)
  std::vector<int32_t> positions;  // (rows)
  std::vector<Sequence> sequences;
  std::vector<int32_t> logit_rows;  // rows whose logits are wanted, ascending
  // Parallel to logit_rows: whether the host wants the logits themselves, not just the largest.
  std::vector<bool> logit_values;

  int rows() const { return static_cast<int>(tokens.size()); }
  void Clear() {
    tokens.clear();
    positions.clear();
    sequences.clear();
    logit_rows.clear();
    logit_values.clear();
  }
};

}  // namespace gguf_offload

#endif  // COMPUTED_RUNTIME_STEP_BATCH_H_

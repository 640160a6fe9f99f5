// Synthetic models as GGUF files: a preset, a quantization mix and a seed make the same bytes
// always.
//
//   SyntheticModelOptions options;
//   options.preset = "tiny-qwen3";
//   options.quantization = "Q4_K_M";
//   ASSERT_OK(SyntheticModel::Plan(options)->Write(path, /*threads=*/2));
#ifndef TESTS_MODELGEN_SYNTHETIC_MODEL_H_
#define TESTS_MODELGEN_SYNTHETIC_MODEL_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/modelgen/gguf_writer.h"
#include "tests/modelgen/model_plan.h"
#include "tests/modelgen/presets.h"

namespace gguf_offload {

struct SyntheticModelOptions {
  std::string preset;                 // see presets.h
  std::string quantization = "Q8_0";  // see quantization_mix.h
  PresetOverrides overrides;
  uint64_t seed = 1;
  uint64_t shard_bytes = 0;     // see GgufWriterOptions
  bool metadata_shard = false;  // see GgufWriterOptions
};

// Bytes of the tensors' data, without padding.
struct ModelBytes {
  uint64_t file = 0;     // all files, headers and padding included
  uint64_t tensors = 0;  // all tensors
  uint64_t layers = 0;   // tensors that belong to a layer
  // What a step reads of tensors outside the layers: the output matrix or the tied embedding, and
  // the last norm, but no embedding that is only looked up.
  uint64_t head = 0;
  uint64_t experts = 0;                                      // routed experts
  uint64_t experts_a_token = 0;                              // those that one token uses
  uint64_t largest_expert_bank = 0;                          // one layer's gate, up and down
  std::map<std::string, std::pair<size_t, uint64_t>> types;  // type -> tensors, bytes
};

// A model whose every byte is decided but not yet computed. Immutable, so safe to share.
class SyntheticModel {
 public:
  static absl::StatusOr<SyntheticModel> Plan(const SyntheticModelOptions& options);

  // Writes the model with `threads` threads and returns the paths of its shards, in order.
  absl::StatusOr<std::vector<std::string>> Write(const std::string& path, int threads) const;

  ModelBytes Bytes() const;

  const ModelPlan& plan() const { return plan_; }
  const GgufLayout& layout() const { return layout_; }  // tensors in the order of plan().tensors

 private:
  SyntheticModel(ModelPlan plan, GgufLayout layout, uint64_t seed)
      : plan_(std::move(plan)), layout_(std::move(layout)), seed_(seed) {}

  ModelPlan plan_;
  GgufLayout layout_;
  uint64_t seed_;
};

}  // namespace gguf_offload

#endif  // TESTS_MODELGEN_SYNTHETIC_MODEL_H_

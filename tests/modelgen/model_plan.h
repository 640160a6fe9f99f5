// A model before its weights: hyperparameters, tokenizer family, and each tensor's shape, role and
// distribution. What type a tensor gets is the quantization mix's affair (quantization_mix.h).
#ifndef TESTS_MODELGEN_MODEL_PLAN_H_
#define TESTS_MODELGEN_MODEL_PLAN_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "tests/modelgen/vocabulary.h"

namespace gguf_offload {

// What a tensor does, as far as quantization mixes care.
enum class TensorRole {
  kFloat,      // norms, biases, routers: F32 in every mix
  kEmbedding,  // also the output matrix where the model has no other
  kOutput,
  kAttention,    // queries, keys, attention's output
  kValue,        // values; also what expands the latent vector of multi-head latent attention
  kLatent,       // what makes that latent vector
  kFeedForward,  // gate and up
  kFeedForwardDown,
  kSharedExpert,  // gate and up
  kSharedExpertDown,
  kExpert,  // gate and up
  kExpertDown,
};

struct TensorPlan {
  std::string name;
  std::vector<uint64_t> dims;  // columns first
  TensorRole role;
  int layer;         // -1 outside the layers
  double mean;       // of the values
  double deviation;  // standard deviation of the values
};

// The shape of a transformer: what the presets differ in. Zero means "has none".
struct PresetShape {
  uint32_t layers = 0;
  uint32_t context = 0;
  uint32_t dim = 0;
  uint32_t feed_forward = 0;
  uint32_t heads = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t vocabulary = 0;
  float epsilon = 0;
  float freq_base = 0;
  bool tied = false;  // the embedding is the output matrix
  uint32_t experts = 0;
  uint32_t experts_used = 0;
  uint32_t expert_feed_forward = 0;
};

using Hyperparameter = std::variant<uint32_t, float, bool, std::string>;

struct ModelPlan {
  ModelPlan(std::string_view name, std::string_view architecture, TokenizerFamily tokenizer,
            const PresetShape& shape);

  // Records `value` under "ARCHITECTURE.key".
  void Set(std::string_view key, Hyperparameter value);

  // A matrix of dims[0] columns whose product with a vector of unit deviation has deviation `gain`.
  void AddMatrix(std::string_view name, std::vector<uint64_t> dims, TensorRole role, int layer,
                 double gain = 1);
  // A vector or another tensor that stays F32.
  void AddFloats(std::string_view name, std::vector<uint64_t> dims, int layer, double mean,
                 double deviation);

  // The keys that all these architectures share, and the tensors outside the layers.
  void SetCommonHyperparameters();
  void AddEmbedding();
  void AddOutput();
  // The two norms of a layer.
  void AddLayerNorms(int layer);
  // gate, up and down of `hidden` units.
  void AddFeedForward(int layer, uint32_t hidden);
  // The router and `shape.experts` experts.
  void AddExperts(int layer);

  std::string name;
  std::string architecture;
  TokenizerFamily tokenizer;
  PresetShape shape;
  std::vector<std::pair<std::string, Hyperparameter>> hyperparameters;
  std::vector<TensorPlan> tensors;
};

// "blk.LAYER.NAME"
std::string LayerTensor(int layer, std::string_view name);

}  // namespace gguf_offload

#endif  // TESTS_MODELGEN_MODEL_PLAN_H_

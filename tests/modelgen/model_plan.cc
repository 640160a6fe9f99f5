#include "tests/modelgen/model_plan.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace gguf_offload {
namespace {

// Logits of deviation three make a distribution over tokens that is neither flat nor a spike.
constexpr double kLogitGain = 3;
// Layers add about half of what is there, so that all of them matter.
constexpr double kResidualGain = 0.5;
constexpr double kNormSpread = 0.1;

}  // namespace

std::string LayerTensor(int layer, std::string_view name) {
  return absl::StrCat("blk.", layer, ".", absl::string_view(name.data(), name.size()));
}

ModelPlan::ModelPlan(std::string_view name, std::string_view architecture,
                     TokenizerFamily tokenizer, const PresetShape& shape)
    : name(name), architecture(architecture), tokenizer(tokenizer), shape(shape) {}

void ModelPlan::Set(std::string_view key, Hyperparameter value) {
  hyperparameters.emplace_back(architecture + "." + std::string(key), std::move(value));
}

void ModelPlan::AddMatrix(std::string_view name, std::vector<uint64_t> dims, TensorRole role,
                          int layer, double gain) {
  const double deviation = gain / std::sqrt(static_cast<double>(dims[0]));
  tensors.push_back(TensorPlan{std::string(name), std::move(dims), role, layer, 0, deviation});
}

void ModelPlan::AddFloats(std::string_view name, std::vector<uint64_t> dims, int layer, double mean,
                          double deviation) {
  tensors.push_back(
      TensorPlan{std::string(name), std::move(dims), TensorRole::kFloat, layer, mean, deviation});
}

void ModelPlan::SetCommonHyperparameters() {
  Set("block_count", shape.layers);
  Set("context_length", shape.context);
  Set("embedding_length", shape.dim);
  Set("feed_forward_length", shape.feed_forward);
  Set("attention.head_count", shape.heads);
  Set("attention.head_count_kv", shape.kv_heads);
  Set("rope.freq_base", shape.freq_base);
  Set("attention.layer_norm_rms_epsilon", shape.epsilon);
}

void ModelPlan::AddEmbedding() {
  // Where it is not the output matrix too, embeddings have unit deviation, as what layers add does.
  const double gain = shape.tied ? kLogitGain : std::sqrt(static_cast<double>(shape.dim));
  AddMatrix("token_embd.weight", {shape.dim, shape.vocabulary}, TensorRole::kEmbedding, -1, gain);
}

void ModelPlan::AddOutput() {
  AddFloats("output_norm.weight", {shape.dim}, -1, 1, kNormSpread);
  if (shape.tied) return;
  AddMatrix("output.weight", {shape.dim, shape.vocabulary}, TensorRole::kOutput, -1, kLogitGain);
}

void ModelPlan::AddLayerNorms(int layer) {
  AddFloats(LayerTensor(layer, "attn_norm.weight"), {shape.dim}, layer, 1, kNormSpread);
  AddFloats(LayerTensor(layer, "ffn_norm.weight"), {shape.dim}, layer, 1, kNormSpread);
}

void ModelPlan::AddFeedForward(int layer, uint32_t hidden) {
  AddMatrix(LayerTensor(layer, "ffn_gate.weight"), {shape.dim, hidden}, TensorRole::kFeedForward,
            layer);
  AddMatrix(LayerTensor(layer, "ffn_up.weight"), {shape.dim, hidden}, TensorRole::kFeedForward,
            layer);
  AddMatrix(LayerTensor(layer, "ffn_down.weight"), {hidden, shape.dim},
            TensorRole::kFeedForwardDown, layer, kResidualGain);
}

void ModelPlan::AddExperts(int layer) {
  const uint32_t hidden = shape.expert_feed_forward;
  AddFloats(LayerTensor(layer, "ffn_gate_inp.weight"), {shape.dim, shape.experts}, layer, 0,
            2 / std::sqrt(static_cast<double>(shape.dim)));
  AddMatrix(LayerTensor(layer, "ffn_gate_exps.weight"), {shape.dim, hidden, shape.experts},
            TensorRole::kExpert, layer);
  AddMatrix(LayerTensor(layer, "ffn_up_exps.weight"), {shape.dim, hidden, shape.experts},
            TensorRole::kExpert, layer);
  AddMatrix(LayerTensor(layer, "ffn_down_exps.weight"), {hidden, shape.dim, shape.experts},
            TensorRole::kExpertDown, layer, kResidualGain);
}

}  // namespace gguf_offload

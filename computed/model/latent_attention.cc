#include "computed/model/latent_attention.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "computed/model/read_or_return.h"

namespace gguf_offload {
namespace {

constexpr int64_t kMaxRank = 1 << 16;
constexpr int64_t kMaxHeadDim = 4096;

absl::Status Refused(const v1::Manifest& manifest, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("model '", manifest.name(), "': ", what));
}

}  // namespace

absl::StatusOr<LatentTraits> ReadLatentShape(const v1::Manifest& manifest,
                                             TransformerShape& shape) {
  const Metadata metadata(manifest);
  LatentTraits traits;
  LatentShape& latent = shape.latent;
  // Files with split projections give the widths of the latent cache as attention.key_length and
  // attention.value_length, and those of a head under names of their own.
  const bool split = metadata.Has("attention.key_length_mla");
  traits.form = split ? LatentForm::kSplit : LatentForm::kCombined;

  int64_t key_dim = 0;
  READ_OR_RETURN(latent.query_rank, metadata.IntegerOr("attention.q_lora_rank", 0, 0, kMaxRank));
  READ_OR_RETURN(latent.kv_rank, metadata.Integer("attention.kv_lora_rank", 1, kMaxRank));
  READ_OR_RETURN(key_dim,
                 metadata.Integer(split ? "attention.key_length_mla" : "attention.key_length", 1,
                                  kMaxHeadDim));
  READ_OR_RETURN(latent.value_dim,
                 metadata.Integer(split ? "attention.value_length_mla" : "attention.value_length",
                                  1, kMaxHeadDim));
  READ_OR_RETURN(latent.rope_dim, metadata.Integer("rope.dimension_count", 2, kMaxHeadDim));
  if (latent.rope_dim % 2 != 0 || latent.rope_dim >= key_dim) {
    return Refused(manifest, absl::StrCat("rope.dimension_count ", latent.rope_dim,
                                          " is odd or not less than the keys' ", key_dim));
  }
  latent.plain_dim = key_dim - latent.rope_dim;
  shape.kv_heads = 1;
  shape.key_dim = latent.kv_rank + latent.rope_dim;
  shape.value_dim = latent.kv_rank;

  // Queries that grow with their position (Mistral Large 3) would be computed wrongly.
  double temperature = 0;
  READ_OR_RETURN(temperature, metadata.NumberOr("attention.temperature_scale", 0.0, -1e6, 1e6));
  if (temperature != 0.0) {
    return absl::UnimplementedError(absl::StrCat("model '", manifest.name(),
                                                 "': attention.temperature_scale with latent "
                                                 "attention is not supported"));
  }
  return traits;
}

absl::StatusOr<RopeParameters> ReadLatentRope(const v1::Manifest& manifest,
                                              const TransformerShape& shape, LatentTraits& traits) {
  const Metadata metadata(manifest);
  TransformerShape rotated = shape;
  rotated.key_dim = shape.latent.rope_dim;
  RopeParameters rope;
  double log_multiplier = 0;
  READ_OR_RETURN(rope, ReadRopeParameters(manifest, rotated));
  READ_OR_RETURN(log_multiplier,
                 metadata.NumberOr("rope.scaling.yarn_log_multiplier", 0.0, -1e3, 1e3));

  // YaRN makes attention sharper as the context is extended. Of the scores of these models only a
  // part is rotated, so that a larger magnitude of that part would not do: it keeps its magnitude,
  // and all scores are multiplied by the square of m = 1 + log_multiplier * ln(factor). Files have
  // a tenth of DeepSeek's "mscale_all_dim" for the log multiplier.
  double magnitude = rope.attn_factor;
  if (rope.scaling == RopeScaling::kYarn) {
    const double log_factor = std::log(static_cast<double>(rope.factor));
    magnitude *= 1.0 + log_multiplier * log_factor;
    if (rope.ext_factor != 0.0f) rope.attn_factor /= 1.0 + 0.1 * log_factor;
  }
  traits.scale = static_cast<float>(magnitude * magnitude /
                                    std::sqrt(static_cast<double>(shape.latent.key_dim())));
  // Written so that NaN fails.
  if (!(magnitude > 0 && std::isfinite(traits.scale) && rope.attn_factor > 0 &&
        std::isfinite(rope.attn_factor))) {
    return Refused(manifest,
                   "rope.scaling.factor and rope.scaling.yarn_log_multiplier make the "
                   "scores of attention infinite or negative");
  }
  return rope;
}

void AppendLatentAttentionTensors(const TransformerShape& shape, const LatentTraits& traits,
                                  std::vector<TensorSpec>& tensors) {
  const LatentShape& latent = shape.latent;
  const int64_t queries = shape.heads * latent.key_dim();
  const int64_t values = shape.heads * latent.value_dim;
  tensors.push_back({kAttentionNorm, {shape.embedding}});
  if (latent.query_rank > 0) {
    tensors.push_back({kAttentionQA, {shape.embedding, latent.query_rank}});
    tensors.push_back({kAttentionQANorm, {latent.query_rank}});
    tensors.push_back({kAttentionQB, {latent.query_rank, queries}});
  } else {
    tensors.push_back({kAttentionQ, {shape.embedding, queries}});
  }
  tensors.push_back({kAttentionKvA, {shape.embedding, latent.kv_rank + latent.rope_dim}});
  tensors.push_back({kAttentionKvANorm, {latent.kv_rank}});
  if (traits.form == LatentForm::kSplit) {
    tensors.push_back({kAttentionKB, {latent.plain_dim, latent.kv_rank, shape.heads}});
    tensors.push_back({kAttentionVB, {latent.kv_rank, latent.value_dim, shape.heads}});
  } else {
    tensors.push_back(
        {kAttentionKvB, {latent.kv_rank, shape.heads * (latent.plain_dim + latent.value_dim)}});
  }
  tensors.push_back({kAttentionOutput, {values, shape.embedding}});
}

void LatentAttention(Backend& backend, int layer, const TransformerShape& shape,
                     const LatentTraits& traits, const RopeFrequencies& frequencies,
                     const LayerWeights& weights, const StepActivations& step) {
  const LatentShape& latent = shape.latent;
  // Queries, by way of a latent vector of their own in the larger models; latent vector and key.
  backend.RmsNorm(step.residual, weights[kAttentionNorm], shape.norm_epsilon, step.hidden);
  const bool direct = latent.query_rank == 0;
  backend.Project(step.hidden, {{
                                   {weights[direct ? kAttentionQ : kAttentionQA],
                                    direct ? step.head_query : step.query_latent},
                                   {weights[kAttentionKvA], step.key},
                               }});
  const Matrix kv_latent = step.key.Columns(latent.kv_rank);
  if (direct) {
    backend.RmsNorm(kv_latent, weights[kAttentionKvANorm], shape.norm_epsilon, kv_latent);
  } else {
    backend.RmsNormBoth(step.query_latent, weights[kAttentionQANorm], kv_latent,
                        weights[kAttentionKvANorm], shape.norm_epsilon);
    backend.Project(step.query_latent, {{{weights[kAttentionQB], step.head_query}}});
  }

  // The queries' plain part to the latent space, their rotated part behind it: as the keys are.
  const HeadSlice plain = HeadSlice::Of(step.head_query, shape.heads, 0, latent.plain_dim);
  const HeadSlice in_latent = HeadSlice::Of(step.query, shape.heads, 0, latent.kv_rank);
  const int64_t combined_rows = latent.plain_dim + latent.value_dim;
  if (traits.form == LatentForm::kSplit) {
    backend.ProjectHeads(plain, {weights[kAttentionKB], latent.kv_rank, 0, latent.kv_rank},
                         in_latent);
  } else {
    backend.ProjectHeadsTransposed(
        plain, {weights[kAttentionKvB], combined_rows, 0, latent.plain_dim}, in_latent);
  }
  backend.RotateAndStoreLatent(
      layer, HeadSlice::Of(step.head_query, shape.heads, latent.plain_dim, latent.rope_dim),
      HeadSlice::Of(step.query, shape.heads, latent.kv_rank, latent.rope_dim), step.key,
      {.frequencies = frequencies, .style = traits.rope_style});

  backend.ReadSoon(weights[kAttentionOutput]);
  backend.Attention(layer, step.query, {.scale = traits.scale, .heads = shape.heads},
                    step.attention);

  // What each head has gathered, to its values.
  const HeadWeights value_weights =
      traits.form == LatentForm::kSplit
          ? HeadWeights{weights[kAttentionVB], latent.value_dim, 0, latent.value_dim}
          : HeadWeights{weights[kAttentionKvB], combined_rows, latent.plain_dim, latent.value_dim};
  backend.ProjectHeads(HeadSlice::Of(step.attention, shape.heads, 0, latent.kv_rank), value_weights,
                       HeadSlice::Of(step.head_value, shape.heads, 0, latent.value_dim));
  backend.Project(step.head_value, {{{weights[kAttentionOutput], step.hidden}}});
}

}  // namespace gguf_offload

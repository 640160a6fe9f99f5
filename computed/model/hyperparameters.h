// Reads a model's hyperparameters from the manifest's metadata, checking each: the file may say
// anything. Errors name the model and the key.
#ifndef COMPUTED_MODEL_HYPERPARAMETERS_H_
#define COMPUTED_MODEL_HYPERPARAMETERS_H_

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>
#include "absl/strings/string_view.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "computed/model/tensor_names.h"
#include "gguf_offload/v1/model.pb.h"
#include "kernels/moe/routing.h"
#include "kernels/ops/rope.h"

namespace gguf_offload {

// Metadata under one prefix. Keys without a dot-separated prefix of their own are looked up as
// "<architecture>.<key>".
class Metadata {
 public:
  // `manifest` must outlive this.
  explicit Metadata(const v1::Manifest& manifest);

  bool Has(absl::string_view key) const { return Find(key) != nullptr; }
  // An integer within [min, max]; INVALID_ARGUMENT if it is missing, of another type or outside.
  absl::StatusOr<int64_t> Integer(absl::string_view key, int64_t min, int64_t max) const;
  // The same with a value for files that do not have the key. An array of equal values counts as
  // that value (some files store per-layer head counts).
  absl::StatusOr<int64_t> IntegerOr(absl::string_view key, int64_t fallback, int64_t min,
                                    int64_t max) const;
  // A finite number within [min, max].
  absl::StatusOr<double> Number(absl::string_view key, double min, double max) const;
  absl::StatusOr<double> NumberOr(absl::string_view key, double fallback, double min,
                                  double max) const;
  absl::StatusOr<bool> BooleanOr(absl::string_view key, bool fallback) const;
  bool IsArray(absl::string_view key) const;
  // The first `count` elements of an array of booleans or integers: whether each is not 0.
  absl::StatusOr<std::vector<bool>> Flags(absl::string_view key, int count) const;
  absl::StatusOr<std::string> StringOr(absl::string_view key, absl::string_view fallback) const;

 private:
  const v1::MetadataValue* Find(absl::string_view key) const;
  absl::Status Error(absl::string_view key, absl::string_view what) const;

  const v1::Manifest& manifest_;
};

// The experts of a model; routing.experts is 0 if it has none. See expert_blocks.h.
struct ExpertShape {
  RoutingRule routing;
  int64_t feed_forward = 0;         // width of an expert
  int64_t shared_feed_forward = 0;  // width of all shared experts together; 0: none
  int dense_layers = 0;             // the first so many layers have a dense feed-forward
  bool gated = true;                // an expert's inner product is multiplied by that of a gate
  TensorId norm = kFfnNorm;         // before the feed-forward
};

// The widths of multi-head latent attention; kv_rank is 0 if a model has another kind. See
// latent_attention.h.
struct LatentShape {
  int64_t query_rank = 0;  // of the queries' latent vector; 0: there is none
  int64_t kv_rank = 0;     // of the latent vector of keys and values
  int64_t plain_dim = 0;   // of a head's key and query, what is not rotated
  int64_t rope_dim = 0;    // and what is
  int64_t value_dim = 0;   // of a head's value

  int64_t key_dim() const { return plain_dim + rope_dim; }
};

// What all transformer architectures have in common.
struct TransformerShape {
  int layers = 0;
  int prediction_layers = 0;  // blocks after the layers that predict further tokens; not executed
  int64_t embedding = 0;      // width of the residual stream
  int64_t feed_forward = 0;   // width of the dense feed-forward
  int64_t vocabulary = 0;
  int heads = 0;
  int kv_heads = 0;
  // A head's key and query, and its value, as they are in the cache. With latent attention that has
  // one head, whose key is the latent vector and the rotated part, and whose value is the former.
  int64_t key_dim = 0;
  int64_t value_dim = 0;
  int64_t context = 0;  // longest sequence the model was made for
  float norm_epsilon = 0;
  ExpertShape experts;
  LatentShape latent;

  bool has_latent_attention() const { return latent.kv_rank > 0; }
  bool has_experts() const { return experts.routing.experts > 0; }
  // Width of the widest feed-forward that every token goes through; 0 if all are experts.
  int64_t gated_width() const {
    const bool dense = !has_experts() || experts.dense_layers > 0;
    return std::max(dense ? feed_forward : 0, experts.shared_feed_forward);
  }
};

// Reads and checks them: 1 to 512 layers (less those of nextn_predict_layers, which block_count
// includes), heads that divide, everything positive and bounded.
absl::StatusOr<TransformerShape> ReadTransformerShape(const v1::Manifest& manifest);

// RoPE parameters from "rope.*" for heads `shape.key_dim` wide, without frequency factors.
absl::StatusOr<RopeParameters> ReadRopeParameters(const v1::Manifest& manifest,
                                                  const TransformerShape& shape);

}  // namespace gguf_offload

#endif  // COMPUTED_MODEL_HYPERPARAMETERS_H_

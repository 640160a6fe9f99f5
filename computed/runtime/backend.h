// What a forward pass is made of: the operations that models are written in, once for every kind of
// processor.
//
// A backend has memory of its own, in which weights, activations and the KV cache live, and runs
// operations on it in the order of the calls. Operations may return before they are done;
// Synchronize waits. Operations cannot fail: shapes are checked when a model is loaded.
//
// Not thread safe: one thread drives a backend.
#ifndef COMPUTED_RUNTIME_BACKEND_H_
#define COMPUTED_RUNTIME_BACKEND_H_

#include <cstdint>
#include <initializer_list>
#include <span>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "computed/runtime/step_batch.h"
#include "computed/runtime/tensor.h"
#include "kernels/moe/routing.h"
#include "kernels/ops/rope.h"

namespace gguf_offload {

// One of several products with the same input: output = input * weight^T, with the weight's scale
// and bias.
struct Projection {
  const Weight& weight;  // (output columns, input columns)
  Matrix output;         // (rows, output columns)
};

struct KvShape {
  int layers = 0;
  int kv_heads = 0;
  int64_t key_dim = 0;
  int64_t value_dim = 0;
  // The values are the first value_dim elements of the keys and take no memory of their own.
  bool values_in_keys = false;
};

// How queries and keys are made ready for attention.
struct RotarySpec {
  int64_t head_dim = 0;
  const RopeFrequencies& frequencies;  // registered with AddRope
  RopeStyle style;
  // (head_dim) weights of an RMS norm of each head before the rotation; both may be absent.
  const Weight& query_norm;
  const Weight& key_norm;
  float epsilon = 0;  // of the norms
};

// How the queries and keys of multi-head latent attention are rotated: a part of each by itself.
struct LatentRotarySpec {
  const RopeFrequencies& frequencies;  // registered with AddRope
  RopeStyle style;
};

struct AttentionSpec {
  float scale = 1;                // multiplies the scores
  int heads = 0;                  // query heads
  int sliding_window = 0;         // keys within this many positions only; 0: all
  const Weight* sinks = nullptr;  // (heads) extra logits of the softmax, or null
};

// The experts of a layer: expert e is down[e] (activation(gate[e] x, up[e] x)).
struct ExpertBank {
  const Weight& gate;  // (experts, feed_forward, embedding)
  const Weight& up;    // (experts, feed_forward, embedding)
  const Weight& down;  // (experts, embedding, feed_forward)
  ExpertActivation activation = ExpertActivation::kSwiGlu;
};

// A layer's way from the residual stream to its experts.
struct ExpertRoute {
  const Weight& norm;            // (embedding)
  float epsilon = 0;             // of the norm
  const Weight& router;          // (experts, embedding)
  const Weight& selection_bias;  // (experts), may be absent; see ChooseExperts
  const RoutingRule& rule;
  const Weight& gate;  // like those of an ExpertBank
  const Weight& up;
  const Weight& down;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual absl::string_view name() const = 0;
  // Whether operations return before they are done, as a rule.
  virtual bool asynchronous() const = 0;

  // A matrix in the backend's memory, for the life of the backend. `purpose` is shown in reports.
  virtual absl::StatusOr<Matrix> AllocateMatrix(int rows, int64_t columns,
                                                absl::string_view purpose) = 0;
  // The KV cache: `pages` pages of kKvPageTokens positions for every layer.
  virtual absl::Status AllocateKvCache(const KvShape& shape, int pages) = 0;
  virtual uint64_t kv_cache_bytes() const = 0;
  virtual uint64_t activation_bytes() const = 0;

  // Must be called for every table of frequencies that RotateAndStore is to use; it must outlive
  // the backend.
  virtual absl::Status AddRope(const RopeFrequencies& frequencies) = 0;

  // Makes `batch` the step that the following operations are part of. `batch` must stay as it is
  // until the step is over.
  virtual void BeginStep(const StepBatch& batch) = 0;
  // Runs a stretch of the step: `operations` calls the operations below. Stretch `index` must call
  // the same operations on the same memory in all steps of the same shape, and follow the same
  // ones, so that a backend can record it once and replay it.
  virtual void Run(int index, absl::FunctionRef<void()> operations) = 0;

  // out[i] = table[token of row i]
  virtual void Embed(const Weight& table, Matrix out) = 0;
  // out = x / rms(x) * weight, row by row
  virtual void RmsNorm(Matrix x, const Weight& weight, float epsilon, Matrix out) = 0;
  // The same for two matrices of the same rows, in place.
  virtual void RmsNormBoth(Matrix first, const Weight& first_weight, Matrix second,
                           const Weight& second_weight, float epsilon) = 0;
  // residual += x; out = norm(residual)
  virtual void AddRmsNorm(Matrix residual, Matrix x, const Weight& weight, float epsilon,
                          Matrix out) = 0;
  // residual += x
  virtual void Add(Matrix residual, Matrix x) = 0;
  // All products of one input.
  virtual void Project(Matrix input, std::span<const Projection> projections) = 0;
  // gate.output = silu(gate's product) * up's product; up.output is memory to work in.
  virtual void ProjectGated(Matrix input, const Projection& gate, const Projection& up) = 0;
  // Normalizes and rotates queries (rows, heads * head_dim) and keys (rows, kv_heads * head_dim) to
  // the step's positions, the queries in place, and stores keys and values in layer `layer` of the
  // cache. The keys' own memory is undefined afterwards.
  virtual void RotateAndStore(int layer, Matrix query, Matrix key, Matrix value,
                              const RotarySpec& spec) = 0;
  // Products of every head's part of the input with that head's own small matrix:
  //   out[h] = weight[h] * input[h], weight[h]: (output columns, input columns)
  virtual void ProjectHeads(HeadSlice input, const HeadWeights& weight, HeadSlice out) = 0;
  // The same with the matrices transposed:
  //   out[h] = weight[h]^T * input[h], weight[h]: (input columns, output columns)
  virtual void ProjectHeadsTransposed(HeadSlice input, const HeadWeights& weight,
                                      HeadSlice out) = 0;
  // Latent attention's counterpart to RotateAndStore, for a cache whose values are in its keys, of
  // which there is one a row. Rotates `query` to the step's positions, into `rotated`, and the last
  // columns of `key` (rows, key_dim), as many as a head of `query` has, in place; then stores the
  // keys in layer `layer` of the cache. The keys' own memory is undefined afterwards.
  virtual void RotateAndStoreLatent(int layer, HeadSlice query, HeadSlice rotated, Matrix key,
                                    const LatentRotarySpec& spec) = 0;
  // Says that Project takes this weight soon after the next Attention: a backend whose memory rests
  // meanwhile may begin to bring it nearer. A hint, without influence on results; the weight must
  // stay where it is until the stretch has run.
  virtual void ReadSoon(const Weight& weight) {}
  // Attention of the step's queries to layer `layer` of the cache.
  virtual void Attention(int layer, Matrix query, const AttentionSpec& options, Matrix out) = 0;
  // Chooses the experts of each row by the router's `logits` (rows, experts), which are undefined
  // afterwards. `selection_bias` (experts) may be absent. The choice stays in the backend, where
  // AddExperts finds it, until the next call.
  virtual void ChooseExperts(Matrix logits, const Weight& selection_bias,
                             const RoutingRule& rule) = 0;
  // Says how the layer behind the one that follows chooses its experts, so that the backend may
  // guess them from what that one adds its experts to, and begin to fetch them. A hint, without
  // influence on results; the weights must stay where they are until the stretch has run.
  virtual void PredictExperts(const ExpertRoute& route) {}
  // Says that AddExperts will follow with this bank: a backend that has to fetch the chosen experts
  // may begin to, beside the operations in between. A hint, without influence on results.
  virtual void FetchExperts(const ExpertBank& bank) {}
  // Says that one of the first products behind the next AddExperts takes this weight. A hint like
  // ReadSoon; the more important come first.
  virtual void ReadAfterExperts(const Weight& weight) {}
  // residual += sum over the experts chosen for each row of weight * expert(x)
  virtual void AddExperts(Matrix residual, Matrix x, const ExpertBank& bank) = 0;
  // residual += sigmoid(gate) * x, with one gate a row: (rows, 1)
  virtual void AddGated(Matrix residual, Matrix x, Matrix gate) = 0;
  // out[i] = x[row i of the batch's logit rows]
  virtual void GatherLogitRows(Matrix x, Matrix out) = 0;
  // Finds the largest value of each row of `logits`, for LargestOf.
  virtual void ArgMax(Matrix logits) = 0;

  // After the last stretch: brings the rows of `logits` that the batch wants (logit_values) to
  // where the host can read them, for HostRow.
  virtual void FetchLogits(Matrix logits) = 0;
  // Waits until everything is done.
  virtual absl::Status Synchronize() = 0;
  // After Synchronize, until the next step: where in row `row` of the logits the largest value is,
  // the first of equals; -1 if one is NaN or plus infinity, or all are minus infinity.
  virtual int32_t LargestOf(int row) = 0;
  // A row that was fetched; the caller may overwrite it.
  virtual std::span<float> HostRow(int row) = 0;
};

}  // namespace gguf_offload

#endif  // COMPUTED_RUNTIME_BACKEND_H_

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
#include <span>
#include "absl/strings/string_view.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "computed/runtime/step_batch.h"
#include "computed/runtime/tensor.h"
#include "kernels/ops/rope.h"

namespace gguf_offload {

// One of several products with the same input: output = input * weight^T + bias.
struct Projection {
  const Weight& weight;  // (output columns, input columns)
  const Weight& bias;    // (output columns), may be absent
  Matrix output;         // (rows, output columns)
};

struct KvShape {
  int layers = 0;
  int kv_heads = 0;
  int64_t key_dim = 0;
  int64_t value_dim = 0;
};

struct AttentionSpec {
  float scale = 1;                // multiplies the scores
  int heads = 0;                  // query heads
  int sliding_window = 0;         // keys within this many positions only; 0: all
  const Weight* sinks = nullptr;  // (heads) extra logits of the softmax, or null
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual absl::string_view name() const = 0;

  // A matrix in the backend's memory, for the life of the backend. `purpose` is shown in reports.
  virtual absl::StatusOr<Matrix> AllocateMatrix(int rows, int64_t columns,
                                                absl::string_view purpose) = 0;
  // The KV cache: `pages` pages of kKvPageTokens positions for every layer.
  virtual absl::Status AllocateKvCache(const KvShape& shape, int pages) = 0;
  virtual uint64_t kv_cache_bytes() const = 0;
  virtual uint64_t activation_bytes() const = 0;

  // Makes `batch` the step that the following operations are part of. `batch` must stay as it is
  // until the step is over.
  virtual void BeginStep(const StepBatch& batch) = 0;

  // out[i] = table[token of row i]
  virtual void Embed(const Weight& table, Matrix out) = 0;
  // out = x / rms(x) * weight, row by row
  virtual void RmsNorm(Matrix x, const Weight& weight, float epsilon, Matrix out) = 0;
  // The same for each of the heads in a row: weight (head_dim), in place
  virtual void HeadRmsNorm(Matrix x, const Weight& weight, float epsilon) = 0;
  // residual += x; out = norm(residual)
  virtual void AddRmsNorm(Matrix residual, Matrix x, const Weight& weight, float epsilon,
                          Matrix out) = 0;
  // residual += x
  virtual void Add(Matrix residual, Matrix x) = 0;
  // All products of one input.
  virtual void Project(Matrix input, std::span<const Projection> projections) = 0;
  // Rotates each head of x, (rows, heads * head_dim), to the step's positions, in place.
  virtual void Rope(Matrix x, int64_t head_dim, const RopeFrequencies& frequencies,
                    RopeStyle style) = 0;
  // Writes the step's keys and values into layer `layer` of the cache.
  virtual void WriteKv(int layer, Matrix keys, Matrix values) = 0;
  // Attention of the step's queries to layer `layer` of the cache.
  virtual void Attention(int layer, Matrix query, const AttentionSpec& options, Matrix out) = 0;
  // gate = silu(gate) * up
  virtual void SwiGlu(Matrix gate, Matrix up) = 0;
  // out[i] = x[rows[i]]
  virtual void GatherRows(Matrix x, std::span<const int32_t> rows, Matrix out) = 0;

  // Waits until everything is done; the host may then read `logits` through HostRows.
  virtual absl::Status Synchronize() = 0;
  // The rows of a matrix where the host can read them, valid until the next operation on it.
  virtual float* HostRow(Matrix matrix, int row) = 0;
};

}  // namespace gguf_offload

#endif  // COMPUTED_RUNTIME_BACKEND_H_

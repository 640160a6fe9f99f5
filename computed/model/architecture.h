// A model architecture: what a forward pass does, written once against the backend interface.
//
// An architecture is one file with three parts (read the hyperparameters; list the tensors with
// their shapes; run one layer) and one line in the registry. What several have in common are
// functions they call (transformer_blocks.h), not base classes.
#ifndef COMPUTED_MODEL_ARCHITECTURE_H_
#define COMPUTED_MODEL_ARCHITECTURE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "computed/model/hyperparameters.h"
#include "computed/model/tensor_names.h"
#include "computed/runtime/backend.h"

namespace gguf_offload {

// Rows of another tensor that stand for a tensor which the file does not have by itself.
struct MergedRows {
  TensorId id;
  int64_t first_row = 0;
  int64_t rows = 0;  // of each matrix of the other tensor, all of them
};

// A tensor that an architecture wants.
struct TensorSpec {
  TensorId id;
  std::vector<int64_t> dimensions;  // as in GGUF: fastest first, {columns, rows, matrices}
  bool optional = false;
  std::vector<MergedRows> merged;  // the first that there is
};

// Activations of one step; all matrices have the step's rows. Memory of the backend, reused by all
// layers.
struct StepActivations {
  Matrix residual;   // (rows, embedding)
  Matrix hidden;     // (rows, embedding)
  Matrix query;      // (rows, heads * key_dim)
  Matrix key;        // (rows, kv_heads * key_dim)
  Matrix value;      // (rows, kv_heads * value_dim)
  Matrix attention;  // (rows, heads * value_dim)
  Matrix gate;       // (rows, gated_width of the shape)
  Matrix up;         // the same
  // Of models with latent attention, which have no `value`.
  Matrix query_latent;  // (rows, query_rank)
  Matrix head_query;    // (rows, heads * latent key_dim): before it goes to the latent space
  Matrix head_value;    // (rows, heads * latent value_dim): after it comes back
  // Of models with experts.
  Matrix router;       // (rows, experts)
  Matrix shared_gate;  // (rows, 1)
  Matrix shared;       // (rows, embedding): what shared experts add; in the memory of `attention`
};

class Architecture {
 public:
  virtual ~Architecture() = default;

  virtual const TransformerShape& shape() const = 0;

  // The tensors outside the layers that a step needs before the first layer, and after the last.
  // An absent kOutput means that the head is the embedding.
  virtual std::vector<TensorSpec> InputTensors() const = 0;
  virtual std::vector<TensorSpec> HeadTensors() const = 0;
  // The tensors of layer `layer`.
  virtual std::vector<TensorSpec> LayerTensors(int layer) const = 0;

  // Called once before the first step, with the vectors among the input tensors.
  virtual absl::Status Prepare(const LayerWeights& input) = 0;
  // The rotations that RunLayer uses; called after Prepare.
  virtual std::vector<const RopeFrequencies*> Rotations() const = 0;

  // Runs layer `layer` on `step.residual`, in place.
  virtual void RunLayer(Backend& backend, int layer, const LayerWeights& weights,
                        const StepActivations& step) const = 0;
};

// The architecture that the manifest names, or UNIMPLEMENTED with the names of those there are;
// INVALID_ARGUMENT if its hyperparameters make no sense.
absl::StatusOr<std::unique_ptr<Architecture>> CreateArchitecture(const v1::Manifest& manifest);

// One line an architecture; see registry.cc.
std::vector<std::string> SupportedArchitectures();

}  // namespace gguf_offload

#endif  // COMPUTED_MODEL_ARCHITECTURE_H_

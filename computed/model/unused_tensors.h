// Which tensors of a file the forward pass may leave out, and why. All others it must use: a model
// whose factors or biases are left out answers fluent nonsense.
#ifndef COMPUTED_MODEL_UNUSED_TENSORS_H_
#define COMPUTED_MODEL_UNUSED_TENSORS_H_

#include "absl/strings/string_view.h"

namespace gguf_offload {

// Why the tensor may be left out, in a few words; empty if it must not be. `layers` are executed,
// and `prediction_layers` blocks of the file follow them.
absl::string_view ReasonForLeavingOut(absl::string_view name, int layers, int prediction_layers);

}  // namespace gguf_offload

#endif  // COMPUTED_MODEL_UNUSED_TENSORS_H_

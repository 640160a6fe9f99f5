// The store's view of a model as messages, and back.
#ifndef WEIGHTD_SERVICE_MODEL_STATUS_H_
#define WEIGHTD_SERVICE_MODEL_STATUS_H_

#include <optional>

#include "absl/status/statusor.h"
#include "gguf_offload/v1/weights.pb.h"
#include "weightd/store/model_store.h"

namespace gguf_offload {

v1::ModelStatus ToProto(const store::ModelStatus& status);

// Nothing for RESIDENCY_UNSPECIFIED. INVALID_ARGUMENT for unknown numbers.
absl::StatusOr<std::optional<store::Residency>> FromProto(v1::Residency residency);

}  // namespace gguf_offload

#endif  // WEIGHTD_SERVICE_MODEL_STATUS_H_

// Asks a weight daemon whether a model's weights are still what they were.
#ifndef WEIGHTD_CLIENT_VERIFY_WEIGHTS_H_
#define WEIGHTD_CLIENT_VERIFY_WEIGHTS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "weightd/client/weight_source.h"

namespace gguf_offload {

// Has the daemon of `options` hash the model's tensors and compare them with what they were when
// the generation was first verified (WeightService.VerifyModel); the first call has nothing to
// compare with. DATA_LOSS naming a tensor if one has changed; whatever the daemon says if it cannot
// do it, DEADLINE_EXCEEDED if it has not by `deadline`.
absl::Status VerifyWeights(const WeightSource::Options& options, absl::Time deadline);

}  // namespace gguf_offload

#endif  // WEIGHTD_CLIENT_VERIFY_WEIGHTS_H_

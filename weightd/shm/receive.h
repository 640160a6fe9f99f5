// The worker's side of a handoff (handoff.h).
#ifndef WEIGHTD_SHM_RECEIVE_H_
#define WEIGHTD_SHM_RECEIVE_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "weightd/shm/handoff.h"
#include "weightd/store/unique_fd.h"

namespace gguf_offload::shm {

// Shows `ticket` on the socket at `path` and receives exactly `count` descriptors, close-on-exec
// and each checked by CheckShareable. Blocks, at most until `deadline`. Errors: UNAVAILABLE (nobody
// listens, the connection broke), DEADLINE_EXCEEDED, PERMISSION_DENIED (ticket refused),
// FAILED_PRECONDITION (another number of descriptors, or one that must not be used),
// RESOURCE_EXHAUSTED (this process may not open that many).
absl::StatusOr<std::vector<store::UniqueFd>> ReceiveDescriptors(const std::string& path,
                                                                std::string_view ticket,
                                                                size_t count, absl::Time deadline);

}  // namespace gguf_offload::shm

#endif  // WEIGHTD_SHM_RECEIVE_H_

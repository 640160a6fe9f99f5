// How descriptors get from the daemon to a worker over the daemon's Unix socket.
//
// The socket serves two protocols, told apart by a connection's first four bytes: gRPC (HTTP/2
// begins with "PRI ") and this one:
//
//   worker: "GOFD" ticket[16]
//   daemon: "GOFD" uint32 status uint32 count                          (little-endian)
//           ceil(count / 64) times: one byte n, 1 to 64, that carries n descriptors (SCM_RIGHTS)
//           end of stream
//
// Descriptors come in the order of the model's shards and are open for reading only. The worker
// sends no descriptors; a connection that does is closed.
#ifndef WEIGHTD_SHM_HANDOFF_H_
#define WEIGHTD_SHM_HANDOFF_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace gguf_offload::shm {

inline constexpr char kMagic[4] = {'G', 'O', 'F', 'D'};
inline constexpr char kHttp2Start[4] = {'P', 'R', 'I', ' '};
inline constexpr size_t kTicketBytes = 16;
inline constexpr size_t kRequestBytes = sizeof(kMagic) + kTicketBytes;
inline constexpr size_t kReplyBytes = sizeof(kMagic) + 2 * sizeof(uint32_t);
inline constexpr size_t kBatch = 64;  // the kernel's limit is 253 descriptors a message

enum class HandoffStatus : uint32_t {
  kOk = 0,
  kBadTicket = 1,     // unknown, used before, or too old
  kNotShareable = 2,  // a descriptor must not be passed; the daemon's log says which and why
};

using Ticket = std::array<uint8_t, kTicketBytes>;

// What a ticket is worth.
struct Handoff {
  // One a shard. Not owned: `owner` keeps them open.
  std::vector<int> descriptors;
  std::shared_ptr<const void> owner;
  // The model's name, for the log.
  std::string model;
};

// Whether a descriptor may be handed to, or taken from, another process: a regular file open for
// reading only, and if it is a memfd, sealed against writing, shrinking, growing and unsealing.
// FAILED_PRECONDITION says what is wrong.
absl::Status CheckShareable(int descriptor);

// Whether a process of that user and group could open the file for writing: through /proc, a
// read-only descriptor is enough to try.
bool WritableBy(int descriptor, uint32_t uid, uint32_t gid);

}  // namespace gguf_offload::shm

#endif  // WEIGHTD_SHM_HANDOFF_H_

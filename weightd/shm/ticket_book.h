// One-use tickets: random numbers that a worker gets over gRPC and shows on the Unix socket, which
// tie the descriptors it receives there to the lease it holds here.
#ifndef WEIGHTD_SHM_TICKET_BOOK_H_
#define WEIGHTD_SHM_TICKET_BOOK_H_

#include <cstddef>
#include <functional>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "weightd/shm/handoff.h"

namespace gguf_offload::shm {

// Owns what the tickets stand for until they are redeemed, revoked or expired. Thread safe.
class TicketBook {
 public:
  static constexpr absl::Duration kLifetime = absl::Seconds(30);
  static constexpr size_t kMaxTickets = 4096;

  explicit TicketBook(std::function<absl::Time()> now = absl::Now) : now_(std::move(now)) {}

  // A new ticket of 128 random bits. RESOURCE_EXHAUSTED if too many are out.
  absl::StatusOr<Ticket> Issue(Handoff handoff);

  // What the ticket stands for, once; nothing if it is unknown, used or expired.
  std::optional<Handoff> Redeem(const Ticket& ticket);

  // The ticket is worth nothing from now on.
  void Revoke(const Ticket& ticket);

  // Tickets that are out and have not expired.
  size_t size();

 private:
  struct Entry {
    Handoff handoff;
    absl::Time expires;
  };
  void DropExpired() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::function<absl::Time()> now_;
  absl::Mutex mutex_;
  absl::flat_hash_map<Ticket, Entry> entries_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gguf_offload::shm

#endif  // WEIGHTD_SHM_TICKET_BOOK_H_

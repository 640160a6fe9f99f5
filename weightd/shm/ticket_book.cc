#include "weightd/shm/ticket_book.h"

#include <sys/random.h>

#include <utility>

namespace gguf_offload::shm {

absl::StatusOr<Ticket> TicketBook::Issue(Handoff handoff) {
  Ticket ticket;
  if (getrandom(ticket.data(), ticket.size(), 0) != static_cast<ssize_t>(ticket.size())) {
    return absl::UnavailableError("no random numbers for a ticket");
  }
  absl::MutexLock lock(&mutex_);
  DropExpired();
  if (entries_.size() >= kMaxTickets) {
    return absl::ResourceExhaustedError("too many tickets that nobody has redeemed");
  }
  entries_[ticket] = {std::move(handoff), now_() + kLifetime};
  return ticket;
}

std::optional<Handoff> TicketBook::Redeem(const Ticket& ticket) {
  absl::MutexLock lock(&mutex_);
  DropExpired();
  auto node = entries_.extract(ticket);
  if (node.empty()) return std::nullopt;
  return std::move(node.mapped().handoff);
}

void TicketBook::Revoke(const Ticket& ticket) {
  absl::MutexLock lock(&mutex_);
  entries_.erase(ticket);
}

size_t TicketBook::size() {
  absl::MutexLock lock(&mutex_);
  DropExpired();
  return entries_.size();
}

void TicketBook::DropExpired() {
  const absl::Time now = now_();
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    if (entry->second.expires <= now) {
      entries_.erase(entry++);
    } else {
      ++entry;
    }
  }
}

}  // namespace gguf_offload::shm

#include "weightd/service/session_book.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"

namespace gguf_offload {

SessionBook::SessionBook(absl::Duration tick) {
  thread_ = std::thread([this, tick] { Run(tick); });
}

SessionBook::~SessionBook() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

absl::StatusOr<std::string> SessionBook::Add(std::string_view kind,
                                             std::weak_ptr<Session> session) {
  std::string id;
  bool draining;
  {
    absl::MutexLock lock(&mutex_);
    if (entries_.size() >= kMaxSessions) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the daemon has ", kMaxSessions, " leases and streams already"));
    }
    const uint64_t number = next_++;
    id = absl::StrCat(absl::string_view(kind.data(), kind.size()), "-", number);
    entries_[number] = {id, std::string(kind), absl::Now(), session};
    draining = draining_;
  }
  if (draining) {
    if (const auto alive = session.lock()) alive->Drain();
  }
  return id;
}

void SessionBook::Remove(std::string_view id) {
  const size_t dash = id.rfind('-');
  uint64_t number = 0;
  if (dash == std::string_view::npos) return;
  const std::string_view digits = id.substr(dash + 1);
  if (!absl::SimpleAtoi(absl::string_view(digits.data(), digits.size()), &number)) return;
  absl::MutexLock lock(&mutex_);
  entries_.erase(number);
}

std::vector<std::pair<SessionBook::Entry, std::shared_ptr<Session>>> SessionBook::Alive() {
  std::vector<std::pair<Entry, std::shared_ptr<Session>>> alive;
  absl::MutexLock lock(&mutex_);
  for (const auto& [number, entry] : entries_) {
    if (auto session = entry.session.lock()) alive.emplace_back(entry, std::move(session));
  }
  return alive;
}

std::vector<v1::Session> SessionBook::List() {
  const absl::Time now = absl::Now();
  std::vector<v1::Session> sessions;
  for (const auto& [entry, session] : Alive()) {
    v1::Session& description = sessions.emplace_back();
    session->Describe(description);
    description.set_id(entry.id);
    description.set_kind(entry.kind);
    description.set_age_seconds(absl::ToDoubleSeconds(now - entry.since));
  }
  return sessions;
}

void SessionBook::DrainAll() {
  {
    absl::MutexLock lock(&mutex_);
    draining_ = true;
  }
  for (const auto& [entry, session] : Alive()) session->Drain();
}

void SessionBook::Run(absl::Duration tick) {
  for (;;) {
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&stopping_), tick)) return;
    }
    const absl::Time now = absl::Now();
    for (const auto& [entry, session] : Alive()) session->Tick(now);
  }
}

}  // namespace gguf_offload

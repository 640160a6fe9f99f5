// Who is connected: leases and streams, for ListSessions, and the clock that ends those that have
// stopped moving.
#ifndef WEIGHTD_SERVICE_SESSION_BOOK_H_
#define WEIGHTD_SERVICE_SESSION_BOOK_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gguf_offload/v1/diagnostics.pb.h"

namespace gguf_offload {

// A call that lasts. All methods are called from any thread.
class Session {
 public:
  virtual ~Session() = default;
  // Fills in everything but id, kind and age.
  virtual void Describe(v1::Session& description) = 0;
  // Called regularly: a chance to notice that nothing moves any more.
  virtual void Tick(absl::Time now) = 0;
  // The daemon is going to stop: end when what is under way is done.
  virtual void Drain() = 0;
};

// Refers to sessions without keeping them alive. Owns a thread. Thread safe.
class SessionBook {
 public:
  static constexpr size_t kMaxSessions = 4096;

  // Calls Session::Tick every `tick`.
  explicit SessionBook(absl::Duration tick);
  ~SessionBook();
  SessionBook(const SessionBook&) = delete;
  SessionBook& operator=(const SessionBook&) = delete;

  // Enters a session of a kind, "lease" for example, and returns its id, "lease-3".
  // RESOURCE_EXHAUSTED if there are too many.
  absl::StatusOr<std::string> Add(std::string_view kind, std::weak_ptr<Session> session);
  void Remove(std::string_view id);

  std::vector<v1::Session> List();
  // Drains all sessions; those that are added later are drained at once.
  void DrainAll();

 private:
  struct Entry {
    std::string id;
    std::string kind;
    absl::Time since;
    std::weak_ptr<Session> session;
  };
  std::vector<std::pair<Entry, std::shared_ptr<Session>>> Alive();
  void Run(absl::Duration tick);

  absl::Mutex mutex_;
  std::map<uint64_t, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_ ABSL_GUARDED_BY(mutex_) = 1;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace gguf_offload

#endif  // WEIGHTD_SERVICE_SESSION_BOOK_H_

// Counts the calls that a daemon is serving, keeps new ones out while it drains, and lets no client
// have more than its share.
//
//   absl::StatusOr<CallGate::Pass> pass = gate->Enter(ClientIdentity(*context));  // first thing
//   if (!pass.ok()) return Reject(pass.status());       // in every method
//   ...                                                 // the pass is held until the call ends
#ifndef COMMON_DAEMON_CALL_GATE_H_
#define COMMON_DAEMON_CALL_GATE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace gguf_offload {

// Thread safe. Must outlive its passes.
class CallGate {
 public:
  // One call. Movable, not copyable.
  class Pass {
   public:
    Pass() = default;
    Pass(Pass&& other) noexcept
        : gate_(std::exchange(other.gate_, nullptr)), client_(std::move(other.client_)) {}
    Pass& operator=(Pass&& other) noexcept {
      if (this != &other) {
        Leave();
        gate_ = std::exchange(other.gate_, nullptr);
        client_ = std::move(other.client_);
      }
      return *this;
    }
    ~Pass() { Leave(); }

   private:
    friend class CallGate;
    Pass(CallGate* gate, std::string client) : gate_(gate), client_(std::move(client)) {}
    void Leave();

    CallGate* gate_ = nullptr;
    std::string client_;
  };

  // `calls_per_client`: how many calls a client may have running at once; 0 for no limit.
  explicit CallGate(int calls_per_client = 0) : calls_per_client_(calls_per_client) {}

  // `client` says whose calls are counted together; those of "" are not limited. Errors:
  // UNAVAILABLE (draining), RESOURCE_EXHAUSTED with a RetryInfo (this client's limit).
  absl::StatusOr<Pass> Enter(std::string client);

  // Refuses new calls from now on. `on_idle` is called once, when no call is left; from this
  // thread if that is so already. May be null. Idempotent; only the first `on_idle` counts.
  void StartDraining(std::function<void()> on_idle);

  bool draining() const;
  int64_t running() const;

  // Whether no call was left before the deadline.
  bool WaitUntilIdle(absl::Time deadline) const;

 private:
  void Leave(const std::string& client);

  const int calls_per_client_;
  mutable absl::Mutex mutex_;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t running_ ABSL_GUARDED_BY(mutex_) = 0;
  // Clients that have calls running; only kept if there is a limit.
  absl::flat_hash_map<std::string, int> running_of_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> on_idle_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gguf_offload

#endif  // COMMON_DAEMON_CALL_GATE_H_

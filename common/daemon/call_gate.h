// Counts the calls that a daemon is serving and keeps new ones out while it drains.
//
//   absl::StatusOr<CallGate::Pass> pass = gate->Enter();   // first thing in every method
//   if (!pass.ok()) return Reject(pass.status());          // UNAVAILABLE: draining
//   ...                                                    // the pass is held until the call ends
#ifndef COMMON_DAEMON_CALL_GATE_H_
#define COMMON_DAEMON_CALL_GATE_H_

#include <cstdint>
#include <functional>
#include <utility>

#include "absl/base/thread_annotations.h"
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
    Pass(Pass&& other) noexcept : gate_(std::exchange(other.gate_, nullptr)) {}
    Pass& operator=(Pass&& other) noexcept {
      if (this != &other) {
        Leave();
        gate_ = std::exchange(other.gate_, nullptr);
      }
      return *this;
    }
    ~Pass() { Leave(); }

   private:
    friend class CallGate;
    explicit Pass(CallGate* gate) : gate_(gate) {}
    void Leave();

    CallGate* gate_ = nullptr;
  };

  // UNAVAILABLE while draining.
  absl::StatusOr<Pass> Enter();

  // Refuses new calls from now on. `on_idle` is called once, when no call is left; from this
  // thread if that is so already. May be null. Idempotent; only the first `on_idle` counts.
  void StartDraining(std::function<void()> on_idle);

  bool draining() const;
  int64_t running() const;

  // Whether no call was left before the deadline.
  bool WaitUntilIdle(absl::Time deadline) const;

 private:
  void Leave();

  mutable absl::Mutex mutex_;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t running_ ABSL_GUARDED_BY(mutex_) = 0;
  std::function<void()> on_idle_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gguf_offload

#endif  // COMMON_DAEMON_CALL_GATE_H_

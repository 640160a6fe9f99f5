#include "common/daemon/call_gate.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/grpc_status/retry_info.h"

namespace gguf_offload {

void CallGate::Pass::Leave() {
  if (gate_ != nullptr) std::exchange(gate_, nullptr)->Leave(client_);
}

absl::StatusOr<CallGate::Pass> CallGate::Enter(std::string client) {
  absl::MutexLock lock(&mutex_);
  if (draining_) return absl::UnavailableError("the daemon is draining");
  if (calls_per_client_ > 0 && !client.empty()) {
    int& calls = running_of_[client];
    if (calls == calls_per_client_) {
      absl::Status status = absl::ResourceExhaustedError(absl::StrCat(
          "this client (", client, ") has ", calls, " calls running, as many as it may"));
      AddRetryInfo(absl::Seconds(1), status);
      return status;
    }
    ++calls;
  }
  ++running_;
  return Pass(this, std::move(client));
}

void CallGate::StartDraining(std::function<void()> on_idle) {
  {
    absl::MutexLock lock(&mutex_);
    if (draining_) return;
    draining_ = true;
    if (running_ > 0) {
      on_idle_ = std::move(on_idle);
      return;
    }
  }
  if (on_idle) on_idle();
}

void CallGate::Leave(const std::string& client) {
  absl::MutexLock lock(&mutex_);
  --running_;
  if (const auto it = running_of_.find(client); it != running_of_.end() && --it->second == 0) {
    running_of_.erase(it);
  }
  // Called under the lock, so that whoever sees the gate idle may destroy what on_idle uses.
  if (running_ == 0 && draining_ && on_idle_) std::exchange(on_idle_, nullptr)();
}

bool CallGate::draining() const {
  absl::MutexLock lock(&mutex_);
  return draining_;
}

int64_t CallGate::running() const {
  absl::MutexLock lock(&mutex_);
  return running_;
}

bool CallGate::WaitUntilIdle(absl::Time deadline) const {
  absl::MutexLock lock(&mutex_);
  const auto idle = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return running_ == 0; };
  return mutex_.AwaitWithDeadline(absl::Condition(&idle), deadline);
}

}  // namespace gguf_offload

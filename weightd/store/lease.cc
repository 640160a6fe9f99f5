// Leases: taking them and giving them back.
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weightd/store/model_store.h"
#include "weightd/store/model_table.h"

namespace gguf_offload::store {

Lease::Lease(std::shared_ptr<LeaseState> state) : state_(std::move(state)) {}

Lease::Lease(Lease&& other) noexcept : state_(std::exchange(other.state_, nullptr)) {}

Lease& Lease::operator=(Lease&& other) noexcept {
  if (this != &other) {
    Release();
    state_ = std::exchange(other.state_, nullptr);
  }
  return *this;
}

Lease::~Lease() { Release(); }

const std::shared_ptr<const Model>& Lease::model() const {
  static const std::shared_ptr<const Model> none;
  return state_ == nullptr ? none : state_->model;
}

void Lease::Release() {
  if (state_ == nullptr) return;
  state_->store->impl_->DropLease(state_);
  state_ = nullptr;
}

absl::StatusOr<Lease> ModelStore::AcquireLease(std::shared_ptr<const Model> model,
                                               std::function<void(const ModelEvent&)> on_event) {
  auto state = std::make_shared<LeaseState>();
  state->store = this;
  state->model = std::move(model);
  {
    absl::MutexLock lock(&state->callback_mutex);
    state->on_event = std::move(on_event);
  }
  const Model& leased = *state->model;
  absl::MutexLock lock(&impl_->mutex);
  const std::shared_ptr<ModelEntry> entry = impl_->FindEntry(leased.name());
  if (entry == nullptr || entry->unloaded ||
      (entry->current != state->model && !entry->IsLeased(leased))) {
    return absl::FailedPreconditionError(absl::StrCat("generation ", leased.generation(),
                                                      " of model '", leased.name(),
                                                      "' is not served any more"));
  }
  // Quarantine marks the model before it looks for leases, so either this sees the mark or the
  // lease is told.
  if (leased.quarantined()) return leased.quarantine_reason();
  entry->leases.push_back(state);
  return Lease(std::move(state));
}

}  // namespace gguf_offload::store

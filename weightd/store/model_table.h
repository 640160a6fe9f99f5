// The state behind ModelStore; private to its implementation.
#ifndef WEIGHTD_STORE_MODEL_TABLE_H_
#define WEIGHTD_STORE_MODEL_TABLE_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "weightd/store/model_store.h"
#include "weightd/store/populator.h"
#include "weightd/store/tensor_hash.h"

namespace gguf_offload::store {

// Shared by the Lease and the table. `model` and `store` never change.
struct LeaseState {
  ModelStore* store = nullptr;
  std::shared_ptr<const Model> model;
  // Held while on_event runs, so that giving the lease back waits for it.
  absl::Mutex callback_mutex;
  std::function<void(const ModelEvent&)> on_event ABSL_GUARDED_BY(callback_mutex);
};

// One name. Guarded by Impl::mutex.
struct ModelEntry {
  std::string name;
  std::string path;                      // of the last load that was tried
  bool loading = false;                  // by one thread; others wait
  std::shared_ptr<const Model> current;  // null: never loaded, failed, or unloaded
  bool unloaded = false;                 // kept only for its leases
  std::string error;                     // of the last load, if it failed
  Residency wanted = Residency::kLazy;
  Residency in_force = Residency::kLazy;
  std::string residency_note;
  std::vector<std::shared_ptr<const Model>> old;  // earlier generations that are leased
  std::vector<std::shared_ptr<LeaseState>> leases;

  bool IsLeased(const Model& model) const;
  // The current or a leased old model of that generation; null if there is none.
  std::shared_ptr<const Model> FindGeneration(uint64_t generation) const;
  bool IsIdle() const { return !loading; }
};

using LeaseStates = std::vector<std::shared_ptr<LeaseState>>;

// Calls the leases' callbacks. No locks may be held.
void Notify(const LeaseStates& leases, const ModelEvent& event);

struct ModelStore::Impl {
  explicit Impl(Options options);

  void Log(std::string_view line) const;
  StoreEvents& events() const;
  std::shared_ptr<ModelEntry> FindEntry(std::string_view name) const
      ABSL_SHARED_LOCKS_REQUIRED(mutex);
  // The entry of that name, made if need be, once no other thread is loading it.
  std::shared_ptr<ModelEntry> ClaimEntry(std::string_view name, std::string_view path)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // Puts a freshly opened model into its entry; returns what is served now and the leases that
  // have to be told. If these files are already mapped, the model that maps them is served.
  std::shared_ptr<const Model> Install(ModelEntry& entry, std::shared_ptr<const Model> model,
                                       Residency residency, LeaseStates* to_notify)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // Starts, or stops, bringing an entry's current model into memory.
  void ApplyResidency(ModelEntry& entry, Residency residency) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void ResidencyFinished(const std::shared_ptr<const Model>& model,
                         const Populator::Outcome& outcome);
  void Quarantine(const Model& model, absl::Status why);
  void DropLease(const std::shared_ptr<LeaseState>& lease);

  const Options options;
  HashBaselines baselines;
  mutable absl::Mutex mutex;
  std::map<std::string, std::shared_ptr<ModelEntry>, std::less<>> entries ABSL_GUARDED_BY(mutex);
  Populator populator;  // last, so that its threads end first
};

}  // namespace gguf_offload::store

#endif  // WEIGHTD_STORE_MODEL_TABLE_H_

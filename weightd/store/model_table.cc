#include "weightd/store/model_table.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace gguf_offload::store {

bool ModelEntry::IsLeased(const Model& model) const {
  return std::any_of(leases.begin(), leases.end(),
                     [&](const auto& lease) { return lease->model.get() == &model; });
}

std::shared_ptr<const Model> ModelEntry::FindGeneration(uint64_t generation) const {
  if (current != nullptr && current->generation() == generation) return current;
  // The newest last: a damaged model may have been loaded again from the same files.
  for (auto it = old.rbegin(); it != old.rend(); ++it) {
    if ((*it)->generation() == generation) return *it;
  }
  return nullptr;
}

void Notify(const LeaseStates& leases, const ModelEvent& event) {
  for (const auto& lease : leases) {
    absl::MutexLock lock(&lease->callback_mutex);
    if (lease->on_event != nullptr) lease->on_event(event);
  }
}

ModelStore::Impl::Impl(Options given)
    : options(std::move(given)),
      populator(options.populate_threads, options.lock_pages ? options.lock_pages : mlock) {}

void ModelStore::Impl::Log(std::string_view line) const {
  if (options.log) options.log(line);
}

StoreEvents& ModelStore::Impl::events() const {
  static StoreEvents nobody;
  return options.events != nullptr ? *options.events : nobody;
}

std::shared_ptr<ModelEntry> ModelStore::Impl::FindEntry(std::string_view name) const {
  const auto it = entries.find(name);
  return it == entries.end() ? nullptr : it->second;
}

std::shared_ptr<ModelEntry> ModelStore::Impl::ClaimEntry(std::string_view name,
                                                         std::string_view path) {
  while (true) {
    std::shared_ptr<ModelEntry> entry = FindEntry(name);
    if (entry == nullptr) {
      if (path.empty()) return nullptr;
      entry = std::make_shared<ModelEntry>();
      entry->name = name;
      entry->path = path;
      entries.emplace(entry->name, entry);
    } else if (entry->loading) {
      // Whatever happens to the entry meanwhile is seen by looking again.
      mutex.Await(absl::Condition(entry.get(), &ModelEntry::IsIdle));
      continue;
    } else if (entry->unloaded && path.empty()) {
      return nullptr;
    }
    entry->loading = true;
    entry->unloaded = false;
    return entry;
  }
}

std::shared_ptr<const Model> ModelStore::Impl::Install(ModelEntry& entry,
                                                       std::shared_ptr<const Model> model,
                                                       Residency residency,
                                                       LeaseStates* to_notify) {
  entry.error.clear();
  const std::shared_ptr<const Model> before = entry.current;
  if (const auto mapped = entry.FindGeneration(model->generation());
      mapped != nullptr && !mapped->quarantined()) {
    // The same files: whoever maps them goes on undisturbed.
    model = mapped;
    std::erase(entry.old, mapped);
  }
  if (model == before) {
    if (residency != entry.wanted) ApplyResidency(entry, residency);
    return model;
  }
  if (before != nullptr) {
    if (entry.IsLeased(*before)) {
      entry.old.push_back(before);
    } else {
      populator.Cancel(*before);
    }
  }
  entry.current = model;
  for (const auto& lease : entry.leases) {
    if (lease->model != model) to_notify->push_back(lease);
  }
  ApplyResidency(entry, residency);
  return model;
}

void ModelStore::Impl::ApplyResidency(ModelEntry& entry, Residency residency) {
  entry.wanted = residency;
  entry.residency_note.clear();
  // Locked pages count as locked only once all of them are.
  entry.in_force = residency == Residency::kLock ? Residency::kWarm : residency;
  if (residency == Residency::kLazy) {
    populator.Cancel(*entry.current);
    return;
  }
  populator.Start(entry.current, /*lock=*/residency == Residency::kLock,
                  [this](const std::shared_ptr<const Model>& model,
                         const Populator::Outcome& outcome) { ResidencyFinished(model, outcome); });
}

void ModelStore::Impl::ResidencyFinished(const std::shared_ptr<const Model>& model,
                                         const Populator::Outcome& outcome) {
  if (!outcome.status.ok()) {
    Quarantine(*model, outcome.status);
    return;
  }
  {
    absl::MutexLock lock(&mutex);
    const std::shared_ptr<ModelEntry> entry = FindEntry(model->name());
    if (entry == nullptr || entry->current != model) return;
    entry->residency_note = outcome.note;
    if (outcome.locked) entry->in_force = Residency::kLock;
  }
  Log(absl::StrCat("model '", model->name(), "': ", model->populated_bytes(), " bytes ",
                   outcome.locked ? "populated and locked" : "populated",
                   outcome.note.empty() ? "" : "; ", outcome.note));
}

void ModelStore::Impl::Quarantine(const Model& model, absl::Status why) {
  if (!model.MarkQuarantined(why)) return;
  events().OnQuarantine();
  LeaseStates to_notify;
  {
    absl::MutexLock lock(&mutex);
    if (const std::shared_ptr<ModelEntry> entry = FindEntry(model.name()); entry != nullptr) {
      for (const auto& lease : entry->leases) {
        if (lease->model.get() == &model) to_notify.push_back(lease);
      }
    }
  }
  Log(absl::StrCat("model '", model.name(), "': generation ", model.generation(),
                   " is quarantined: ", why.message()));
  Notify(to_notify, {.kind = ModelEvent::Kind::kQuarantined,
                     .generation = model.generation(),
                     .message = std::string(why.message())});
}

void ModelStore::Impl::DropLease(const std::shared_ptr<LeaseState>& lease) {
  {
    absl::MutexLock lock(&lease->callback_mutex);
    lease->on_event = nullptr;
  }
  absl::MutexLock lock(&mutex);
  const std::shared_ptr<ModelEntry> entry = FindEntry(lease->model->name());
  if (entry == nullptr) return;
  std::erase(entry->leases, lease);
  std::erase_if(entry->old, [&](const auto& old) { return !entry->IsLeased(*old); });
  if (entry->unloaded && entry->leases.empty()) entries.erase(entries.find(entry->name));
}

}  // namespace gguf_offload::store

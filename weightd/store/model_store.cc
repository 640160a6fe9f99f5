#include "weightd/store/model_store.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "weightd/gguf/utf8.h"
#include "weightd/store/model_table.h"

namespace gguf_offload::store {
namespace {

constexpr size_t kMaxNameBytes = 255;

absl::Status CheckName(std::string_view name) {
  if (name.empty() || name.size() > kMaxNameBytes || !gguf::IsPrintableUtf8(name)) {
    return absl::InvalidArgumentError(absl::StrCat("a model's name has 1 to ", kMaxNameBytes,
                                                   " bytes of UTF-8 without control characters"));
  }
  return absl::OkStatus();
}

absl::Status NoSuchModel(std::string_view name) {
  return absl::NotFoundError(absl::StrCat("there is no model '", std::string(name), "'"));
}

// What can be said under the table's lock, that is, without system calls.
ModelStatus Describe(const ModelEntry& entry) {
  ModelStatus status;
  status.name = entry.name;
  status.path = entry.path;
  status.error = entry.error;
  status.residency = entry.in_force;
  status.residency_note = entry.residency_note;
  status.leases = static_cast<uint32_t>(entry.leases.size());
  for (const auto& old : entry.old) status.old_generations.push_back(old->generation());
  if (entry.current == nullptr) {
    status.state = entry.loading ? ModelState::kLoading : ModelState::kFailed;
    return status;
  }
  const Model& model = *entry.current;
  status.state = ModelState::kReady;
  if (model.quarantined()) {
    status.state = ModelState::kQuarantined;
    status.error = std::string(model.quarantine_reason().message());
  }
  status.path = model.path();
  status.generation = model.generation();
  status.architecture = model.architecture();
  status.tensor_count = model.tensors().size();
  status.bytes = model.total_bytes();
  status.shard_count = static_cast<uint32_t>(model.shards().size());
  status.populated_bytes = model.populated_bytes();
  return status;
}

}  // namespace

ModelStore::ModelStore(Options options) : impl_(std::make_unique<Impl>(std::move(options))) {}

ModelStore::~ModelStore() = default;

absl::StatusOr<std::shared_ptr<const Model>> ModelStore::Load(std::string_view name,
                                                              std::string_view path,
                                                              std::optional<Residency> residency) {
  if (absl::Status status = CheckName(name); !status.ok()) return status;
  std::shared_ptr<ModelEntry> entry;
  std::string file;
  {
    absl::MutexLock lock(&impl_->mutex);
    entry = impl_->ClaimEntry(name, path);
    if (entry == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(
          "model '", std::string(name), "' has not been loaded before, so a path is needed"));
    }
    file = path.empty() ? entry->path : std::string(path);
  }
  const absl::Time start = absl::Now();
  auto opened = Model::Open(name, file, {.allowed_roots = impl_->options.allowed_roots});
  LeaseStates to_notify;
  std::shared_ptr<const Model> replaced;  // unmapped, if it comes to that, outside the lock
  std::shared_ptr<const Model> served;
  {
    absl::MutexLock lock(&impl_->mutex);
    entry->loading = false;
    replaced = entry->current;
    if (!opened.ok()) {
      entry->error = std::string(opened.status().message());
      if (entry->current == nullptr) entry->path = file;
    } else {
      entry->path = file;
      served = impl_->Install(*entry, *opened, residency.value_or(impl_->options.default_residency),
                              &to_notify);
    }
  }
  impl_->events().OnLoad(opened.status(), absl::Now() - start);
  if (!opened.ok()) {
    impl_->Log(absl::StrCat("model '", std::string(name),
                            "': cannot be loaded: ", opened.status().message()));
    return opened.status();
  }
  impl_->Log(absl::StrCat("model '", served->name(), "': generation ", served->generation(), ", ",
                          served->shards().size(), " files, ", served->tensors().size(),
                          " tensors, ", served->total_bytes(), " bytes, from ", served->path()));
  if (std::any_of(served->shards().begin(), served->shards().end(),
                  [](const Model::Shard& shard) { return shard.file->WritableByThisUser(); })) {
    impl_->Log(absl::StrCat("model '", served->name(),
                            "': its files can be written by this user, and so by workers of the "
                            "same user"));
  }
  Notify(to_notify, {.kind = ModelEvent::Kind::kNewGeneration, .generation = served->generation()});
  return served;
}

absl::StatusOr<uint32_t> ModelStore::Unload(std::string_view name) {
  LeaseStates to_notify;
  std::shared_ptr<const Model> dropped;  // unmapped, if it comes to that, outside the lock
  {
    absl::MutexLock lock(&impl_->mutex);
    std::shared_ptr<ModelEntry> entry = impl_->FindEntry(name);
    if (entry == nullptr || entry->unloaded) return NoSuchModel(name);
    impl_->mutex.Await(absl::Condition(entry.get(), &ModelEntry::IsIdle));
    if (entry->unloaded || impl_->FindEntry(name) != entry) return NoSuchModel(name);
    entry->unloaded = true;
    to_notify = entry->leases;
    if (entry->current != nullptr && entry->IsLeased(*entry->current)) {
      entry->old.push_back(entry->current);
    }
    dropped = std::exchange(entry->current, nullptr);
    if (entry->leases.empty()) impl_->entries.erase(impl_->entries.find(name));
  }
  impl_->Log(absl::StrCat("model '", std::string(name), "': unloaded, ", to_notify.size(),
                          " leases remain"));
  Notify(to_notify, {.kind = ModelEvent::Kind::kUnloaded, .message = "the model was unloaded"});
  return static_cast<uint32_t>(to_notify.size());
}

absl::StatusOr<std::shared_ptr<const Model>> ModelStore::Find(std::string_view name,
                                                              uint64_t generation) const {
  absl::MutexLock lock(&impl_->mutex);
  const std::shared_ptr<ModelEntry> entry = impl_->FindEntry(name);
  if (entry == nullptr) return NoSuchModel(name);
  if (generation == 0 && entry->unloaded) return NoSuchModel(name);
  if (generation == 0 && entry->current == nullptr) {
    return entry->loading
               ? absl::UnavailableError(absl::StrCat("model '", entry->name, "' is being loaded"))
               : absl::FailedPreconditionError(
                     absl::StrCat("model '", entry->name, "' could not be loaded: ", entry->error));
  }
  std::shared_ptr<const Model> model =
      generation == 0 ? entry->current : entry->FindGeneration(generation);
  if (model == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("generation ", generation, " of model '", entry->name, "' is not served"));
  }
  if (model->quarantined()) return model->quarantine_reason();
  return model;
}

std::vector<ModelStatus> ModelStore::List() const {
  std::vector<ModelStatus> list;
  std::vector<std::shared_ptr<const Model>> models;
  {
    absl::MutexLock lock(&impl_->mutex);
    for (const auto& [name, entry] : impl_->entries) {
      if (entry->unloaded) continue;
      list.push_back(Describe(*entry));
      models.push_back(entry->current);
    }
  }
  for (size_t i = 0; i < list.size(); ++i) {
    list[i].modified_in_place = models[i] != nullptr && models[i]->ModifiedInPlace();
  }
  return list;
}

std::vector<std::shared_ptr<const Model>> ModelStore::Models() const {
  std::vector<std::shared_ptr<const Model>> models;
  absl::MutexLock lock(&impl_->mutex);
  for (const auto& [name, entry] : impl_->entries) {
    if (entry->current != nullptr) models.push_back(entry->current);
  }
  return models;
}

absl::StatusOr<ModelStatus> ModelStore::Status(std::string_view name) const {
  ModelStatus status;
  std::shared_ptr<const Model> model;
  {
    absl::MutexLock lock(&impl_->mutex);
    const std::shared_ptr<ModelEntry> entry = impl_->FindEntry(name);
    if (entry == nullptr || entry->unloaded) return NoSuchModel(name);
    status = Describe(*entry);
    model = entry->current;
  }
  status.modified_in_place = model != nullptr && model->ModifiedInPlace();
  return status;
}

void ModelStore::Quarantine(const Model& model, absl::Status why) {
  impl_->Quarantine(model, std::move(why));
}

absl::Status ModelStore::CheckIntact(const Model& model) {
  absl::Status status = model.CheckIntact();
  if (absl::IsDataLoss(status)) impl_->Quarantine(model, status);
  return status;
}

absl::StatusOr<ModelStore::TensorHash> ModelStore::HashTensor(const Model& model, size_t index) {
  if (model.quarantined()) return model.quarantine_reason();
  const auto hash = HashTensorBytes(model, index);
  if (!hash.ok()) {
    if (absl::IsDataLoss(hash.status())) impl_->Quarantine(model, hash.status());
    return hash.status();
  }
  const bool changed = impl_->baselines.DiffersFromFirst(model, index, *hash);
  if (changed) {
    impl_->events().OnTensorChanged();
    impl_->Log(absl::StrCat("model '", model.name(), "': tensor '",
                            model.tensors()[index].entry->name,
                            "' has changed since it was first verified"));
  }
  return TensorHash{*hash, changed};
}

void ModelStore::Prefetch(const Model& model, uint32_t shard, uint64_t offset,
                          uint64_t bytes) const {
  if (shard >= model.shards().size()) return;
  const MappedFile& file = *model.shards()[shard].file;
  if (offset > file.size() || bytes > file.size() - offset || bytes == 0) return;
  const uint64_t into_page = offset % static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  // Advice only: whether it can be followed does not matter.
  (void)madvise(const_cast<uint8_t*>(file.data() + offset - into_page), bytes + into_page,
                MADV_WILLNEED);
}

void ModelStore::WaitForResidency() { impl_->populator.WaitUntilIdle(); }

}  // namespace gguf_offload::store

#include "weightd/service/model_rescan.h"

#include <sys/stat.h>

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/log/log.h"
#include "weightd/store/shard_names.h"

namespace gguf_offload {
namespace {

// Nothing for a file that is not there.
std::string FingerprintOfFile(const std::string& path) {
  struct stat s;
  if (stat(path.c_str(), &s) != 0) return "";
  return absl::StrCat(path, ":", s.st_dev, ":", s.st_ino, ":", s.st_size, ":", s.st_mtim.tv_sec,
                      ".", s.st_mtim.tv_nsec, ";");
}

// Of all the shards that the first one's name speaks of.
std::string FingerprintOfModel(const std::string& first) {
  const std::optional<store::ShardName> shard = store::ParseShardName(first);
  if (!shard.has_value()) return FingerprintOfFile(first);
  std::string fingerprint;
  for (uint32_t number = 1; number <= shard->count; ++number) {
    fingerprint += FingerprintOfFile(shard->Sibling(number));
  }
  return fingerprint;
}

std::string FingerprintOfFolder(const std::string& folder) {
  std::string fingerprint;
  const auto paths = store::ModelStore::GgufFilesIn(folder);
  if (!paths.ok()) return fingerprint;
  for (const std::string& path : *paths) fingerprint += FingerprintOfFile(path);
  return fingerprint;
}

}  // namespace

ModelRescan::ModelRescan(store::ModelStore* store, std::string model_dir, absl::Duration interval)
    : store_(store), model_dir_(std::move(model_dir)), interval_(interval) {
  if (interval_ == absl::ZeroDuration()) return;
  LookForChanges();  // what there is at first counts as loaded
  thread_ = std::thread([this] { Loop(); });
}

ModelRescan::~ModelRescan() {
  if (!thread_.joinable()) return;
  {
    absl::MutexLock lock(&stop_mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void ModelRescan::Loop() {
  absl::MutexLock lock(&stop_mutex_);
  while (!stop_mutex_.AwaitWithTimeout(absl::Condition(&stopping_), interval_)) {
    stop_mutex_.Unlock();
    LookForChanges();
    stop_mutex_.Lock();
  }
}

bool ModelRescan::IsInFolder(const std::string& path) const {
  return !model_dir_.empty() && std::filesystem::path(path).parent_path() ==
                                    std::filesystem::path(model_dir_ + "/").parent_path();
}

void ModelRescan::ReloadAll() {
  absl::MutexLock lock(&mutex_);
  for (const store::ModelStatus& status : store_->List()) {
    // Errors are logged by the store and listed.
    if (!IsInFolder(status.path)) store_->Load(status.name, status.path).status().IgnoreError();
  }
  if (!model_dir_.empty()) ReloadFolder();
}

void ModelRescan::ReloadFolder() {
  const absl::StatusOr<size_t> loaded = store_->LoadDirectory(model_dir_);
  if (!loaded.ok()) {
    Log(LogLevel::kWarning, "the folder of models cannot be read", {{"why", loaded.status()}});
    return;
  }
  for (const store::ModelStatus& status : store_->List()) {
    if (!IsInFolder(status.path) || !FingerprintOfFile(status.path).empty()) continue;
    Log(LogLevel::kWarning, "the file is gone, the model is not served any more",
        {{"model", status.name}, {"path", status.path}});
    store_->Unload(status.name).status().IgnoreError();
  }
}

bool ModelRescan::Settled(const std::string& key, Fingerprint now) {
  const auto [it, is_new] = watched_.try_emplace(key, Watched{now, now});
  if (is_new) return false;
  Watched& watched = it->second;
  const bool settled = now == watched.last_seen && now != watched.loaded;
  watched.last_seen = now;
  if (settled) watched.loaded = std::move(now);
  return settled;
}

void ModelRescan::LookForChanges() {
  absl::MutexLock lock(&mutex_);
  for (const store::ModelStatus& status : store_->List()) {
    if (IsInFolder(status.path)) continue;
    if (Settled(absl::StrCat("model ", status.name, " ", status.path),
                FingerprintOfModel(status.path))) {
      Log(LogLevel::kInfo, "files changed", {{"model", status.name}, {"path", status.path}});
      store_->Load(status.name, status.path).status().IgnoreError();
    }
  }
  if (!model_dir_.empty() && Settled("folder", FingerprintOfFolder(model_dir_))) {
    Log(LogLevel::kInfo, "files changed", {{"folder", model_dir_}});
    ReloadFolder();
  }
}

}  // namespace gguf_offload

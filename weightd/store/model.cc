#include "weightd/store/model.h"

#include <xxhash.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weightd/store/shard_names.h"

namespace gguf_offload::store {
namespace {

// More files than any real model has; bounds the descriptors that one load can take.
constexpr uint32_t kMaxShards = 1024;

constexpr std::string_view kSplitNo = "split.no";
constexpr std::string_view kSplitCount = "split.count";
constexpr std::string_view kSplitTensors = "split.tensors.count";

uint64_t HashIdentities(const std::vector<Model::Shard>& shards) {
  std::vector<uint64_t> words;
  words.reserve(shards.size() * 4);
  for (const Model::Shard& shard : shards) {
    const FileIdentity& identity = shard.file->identity();
    words.insert(words.end(), {identity.device, identity.inode, identity.size,
                               static_cast<uint64_t>(identity.mtime_ns)});
  }
  const uint64_t hash = XXH64(words.data(), words.size() * sizeof(uint64_t), /*seed=*/0);
  return hash == 0 ? 1 : hash;
}

absl::StatusOr<Model::Shard> OpenShard(const std::string& path,
                                       const MappedFile::Options& options) {
  auto file = MappedFile::Open(path, options);
  if (!file.ok()) return file.status();
  auto header = gguf::ParseGguf((*file)->bytes(), path);
  // A file that was truncated while it was parsed has read as zeros; that is the real error.
  if (absl::Status status = (*file)->CheckIntact(); !status.ok()) return status;
  if (!header.ok()) return header.status();
  return Model::Shard{*std::move(file), *std::move(header)};
}

// A number from a shard's metadata; an error if it is absent, negative or not an integer.
absl::StatusOr<uint64_t> SplitNumber(const Model::Shard& shard, std::string_view key) {
  const auto number = shard.gguf.FindUnsigned(key);
  if (number.has_value()) return *number;
  const gguf::Value* value = shard.gguf.Find(key);
  return absl::InvalidArgumentError(
      absl::StrCat(shard.file->path(), ": named as a shard of a split model, but its '",
                   std::string(key), "' ", value == nullptr ? "is missing" : "is not a count"));
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Model>> Model::Open(std::string_view name,
                                                         std::string_view path,
                                                         const MappedFile::Options& options) {
  std::shared_ptr<Model> model(new Model());
  model->name_ = name;
  model->path_ = path;
  if (absl::Status status = model->OpenShards(options); !status.ok()) return status;
  if (absl::Status status = model->IndexTensors(); !status.ok()) return status;
  if (absl::Status status = model->CheckSplit(); !status.ok()) return status;
  model->generation_ = HashIdentities(model->shards_);
  if (const std::string* text = model->header().FindString("general.architecture");
      text != nullptr) {
    model->architecture_ = *text;
  }
  return std::shared_ptr<const Model>(std::move(model));
}

absl::Status Model::OpenShards(const MappedFile::Options& options) {
  const auto split = ParseShardName(path_);
  if (split.has_value() && split->number != 1) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": this is shard ", split->number, " of ",
                                                   split->count, "; load the first one, ",
                                                   split->Sibling(1)));
  }
  const uint32_t count = split.has_value() ? split->count : 1;
  if (count > kMaxShards) {
    return absl::ResourceExhaustedError(absl::StrCat(
        path_, ": named as one of ", count, " shards; at most ", kMaxShards, " are supported"));
  }
  for (uint32_t number = 1; number <= count; ++number) {
    auto shard = OpenShard(number == 1 ? path_ : split->Sibling(number), options);
    if (!shard.ok()) {
      return number == 1 ? shard.status()
                         : absl::Status(shard.status().code(),
                                        absl::StrCat("shard ", number, " of ", count, ": ",
                                                     shard.status().message()));
    }
    total_bytes_ += shard->file->size();
    shards_.push_back(*std::move(shard));
  }
  return absl::OkStatus();
}

absl::Status Model::CheckSplit() const {
  const uint64_t count = shards_.size();
  if (count == 1) {
    // Merged files keep the key with the value 0.
    const uint64_t claimed = header().FindUnsigned(kSplitCount).value_or(1);
    if (claimed <= 1) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        path_, ": '", std::string(kSplitCount), "' says ", claimed,
        " shards, but the file is not named NAME-00001-of-0000N.gguf, so they cannot be found"));
  }
  for (uint64_t i = 0; i < count; ++i) {
    const std::string& path = shards_[i].file->path();
    const auto claimed_count = SplitNumber(shards_[i], kSplitCount);
    if (!claimed_count.ok()) return claimed_count.status();
    if (*claimed_count != count) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": 'split.count' is ", *claimed_count,
                                                     ", but the name says ", count,
                                                     ": shards of different models are mixed"));
    }
    const auto number = SplitNumber(shards_[i], kSplitNo);
    if (!number.ok()) return number.status();
    if (*number != i) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": 'split.no' is ", *number, " instead of ", i, ": shards are mixed or renamed"));
    }
  }
  // Only once all shards are known to belong together.
  for (const Shard& shard : shards_) {
    if (shard.gguf.Find(kSplitTensors) == nullptr) continue;
    const auto tensor_count = SplitNumber(shard, kSplitTensors);
    if (!tensor_count.ok()) return tensor_count.status();
    if (*tensor_count != tensors_.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat(shard.file->path(), ": 'split.tensors.count' is ", *tensor_count,
                       ", but the ", count, " shards hold ", tensors_.size(), " tensors"));
    }
  }
  return absl::OkStatus();
}

absl::Status Model::IndexTensors() {
  size_t count = 0;
  for (const Shard& shard : shards_) count += shard.gguf.tensors.size();
  tensors_.reserve(count);
  tensor_index_.reserve(count);
  for (uint32_t i = 0; i < shards_.size(); ++i) {
    for (const gguf::TensorEntry& entry : shards_[i].gguf.tensors) {
      const auto [it, inserted] = tensor_index_.emplace(entry.name, tensors_.size());
      if (!inserted) {
        return absl::InvalidArgumentError(
            absl::StrCat(shards_[i].file->path(), ": tensor '", entry.name, "' is also in ",
                         shards_[tensors_[it->second].shard].file->path()));
      }
      tensors_.push_back({&entry, i});
    }
  }
  return absl::OkStatus();
}

std::optional<size_t> Model::FindTensor(std::string_view name) const {
  const auto it = tensor_index_.find(name);
  if (it == tensor_index_.end()) return std::nullopt;
  return it->second;
}

std::span<const uint8_t> Model::TensorBytes(size_t index) const {
  const Tensor& tensor = tensors_[index];
  return shards_[tensor.shard].file->bytes().subspan(tensor.entry->offset, tensor.entry->bytes);
}

absl::Status Model::CheckIntact() const {
  if (quarantined()) return quarantine_reason();
  for (const Shard& shard : shards_) {
    if (absl::Status status = shard.file->CheckIntact(); !status.ok()) return status;
  }
  return absl::OkStatus();
}

bool Model::ModifiedInPlace() const {
  return std::any_of(shards_.begin(), shards_.end(),
                     [](const Shard& shard) { return shard.file->ModifiedInPlace(); });
}

absl::Status Model::quarantine_reason() const {
  absl::MutexLock lock(&mutex_);
  return quarantine_reason_;
}

bool Model::MarkQuarantined(absl::Status reason) const {
  absl::MutexLock lock(&mutex_);
  if (quarantined()) return false;
  quarantine_reason_ = std::move(reason);
  quarantined_.store(true, std::memory_order_release);
  return true;
}

}  // namespace gguf_offload::store

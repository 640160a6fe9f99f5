// One generation of a model: its files, mapped and parsed.
//
// A model is one GGUF file or a set of shards named NAME-00001-of-0000N.gguf. Opening the first
// shard opens the others beside it; their names are derived from the first shard's name only, never
// from what a file says. "split.no", "split.count" and "split.tensors.count" in the files are
// checked against it.
#ifndef WEIGHTD_STORE_MODEL_H_
#define WEIGHTD_STORE_MODEL_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "weightd/gguf/gguf_file.h"
#include "weightd/store/mapped_file.h"

namespace gguf_offload::store {

// Owns mappings and parsed headers. What a model is never changes once it is open; what changes is
// how much of it has been populated and whether it is quarantined. Thread safe. Shared by pointer:
// whoever holds one keeps the mappings alive.
class Model {
 public:
  struct Shard {
    std::shared_ptr<const MappedFile> file;
    gguf::GgufFile gguf;
  };
  struct Tensor {
    const gguf::TensorEntry* entry;  // owned by the shard
    uint32_t shard;                  // index into shards()
  };

  // Opens and parses `path` and, if it is the first of several shards, the others. Errors: those of
  // MappedFile::Open and gguf::ParseGguf, INVALID_ARGUMENT (shards that do not belong together),
  // NOT_FOUND (a shard is missing), DATA_LOSS (truncated meanwhile).
  static absl::StatusOr<std::shared_ptr<const Model>> Open(std::string_view name,
                                                           std::string_view path,
                                                           const MappedFile::Options& options = {});

  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  // Name it is served under.
  const std::string& name() const { return name_; }
  // Path of the first shard, as given.
  const std::string& path() const { return path_; }
  // xxh64 over device, inode, size and modification time of the shards, never 0: the same files
  // give the same number in every process.
  uint64_t generation() const { return generation_; }
  const std::vector<Shard>& shards() const { return shards_; }
  // The tensors of all shards, in the files' order.
  const std::vector<Tensor>& tensors() const { return tensors_; }
  // Index into tensors(), if there is one of that name.
  std::optional<size_t> FindTensor(std::string_view name) const;
  // The mapped bytes of tensors()[index]. (entry->bytes)
  std::span<const uint8_t> TensorBytes(size_t index) const;
  // The first shard's header, whose metadata is the model's.
  const gguf::GgufFile& header() const { return shards_[0].gguf; }
  // "general.architecture"; empty if the file does not say.
  const std::string& architecture() const { return architecture_; }
  // Size of all files.
  uint64_t total_bytes() const { return total_bytes_; }

  // DATA_LOSS if the model is quarantined or one of its files is damaged. Whoever gets an error
  // here should tell ModelStore::Quarantine.
  absl::Status CheckIntact() const;
  // Whether one of the files has been written to since it was opened.
  bool ModifiedInPlace() const;

  // Bytes brought into memory on request so far; total_bytes() once all are.
  uint64_t populated_bytes() const { return populated_bytes_.load(std::memory_order_relaxed); }

  bool quarantined() const { return quarantined_.load(std::memory_order_acquire); }
  // Why; OK if it is not quarantined.
  absl::Status quarantine_reason() const;

  // For the store, which reports progress and damage here.
  void AddPopulatedBytes(uint64_t bytes) const { populated_bytes_ += bytes; }
  void ResetPopulatedBytes() const { populated_bytes_ = 0; }
  // Keeps the first reason; returns whether this call was the first.
  bool MarkQuarantined(absl::Status reason) const;

 private:
  Model() = default;
  absl::Status OpenShards(const MappedFile::Options& options);
  absl::Status CheckSplit() const;
  absl::Status IndexTensors();

  std::string name_;
  std::string path_;
  uint64_t generation_ = 0;
  std::vector<Shard> shards_;
  std::vector<Tensor> tensors_;
  absl::flat_hash_map<std::string_view, size_t> tensor_index_;
  std::string architecture_;
  uint64_t total_bytes_ = 0;

  mutable std::atomic<uint64_t> populated_bytes_{0};
  mutable std::atomic<bool> quarantined_{false};
  mutable absl::Mutex mutex_;
  mutable absl::Status quarantine_reason_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gguf_offload::store

#endif  // WEIGHTD_STORE_MODEL_H_

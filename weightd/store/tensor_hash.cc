#include "weightd/store/tensor_hash.h"

#include <xxhash.h>

#include <algorithm>
#include <memory>
#include <span>

#include "absl/strings/str_cat.h"

namespace gguf_offload::store {
namespace {

constexpr size_t kChunk = size_t{8} << 20;

struct FreeHashState {
  void operator()(XXH64_state_t* state) const { XXH64_freeState(state); }
};

}  // namespace

absl::StatusOr<uint64_t> HashTensorBytes(const Model& model, size_t index) {
  if (index >= model.tensors().size()) {
    return absl::OutOfRangeError(absl::StrCat(model.path(), ": there is no tensor ", index,
                                              ", only ", model.tensors().size()));
  }
  const Model::Tensor& tensor = model.tensors()[index];
  const MappedFile& file = *model.shards()[tensor.shard].file;
  const std::unique_ptr<XXH64_state_t, FreeHashState> state(XXH64_createState());
  if (state == nullptr) return absl::ResourceExhaustedError("no memory for a hash");
  XXH64_reset(state.get(), /*seed=*/0);
  std::span<const uint8_t> left = model.TensorBytes(index);
  while (!left.empty()) {
    const std::span<const uint8_t> chunk = left.first(std::min(left.size(), kChunk));
    left = left.subspan(chunk.size());
    XXH64_update(state.get(), chunk.data(), chunk.size());
    if (absl::Status status = file.CheckIntact(); !status.ok()) {
      return absl::Status(status.code(), absl::StrCat(status.message(), ", while tensor '",
                                                      tensor.entry->name, "' was read"));
    }
  }
  return XXH64_digest(state.get());
}

bool HashBaselines::DiffersFromFirst(const Model& model, size_t index, uint64_t hash) {
  absl::MutexLock lock(&mutex_);
  const auto [it, inserted] = hashes_.try_emplace(model.generation());
  if (inserted) {
    it->second.resize(model.tensors().size());
    order_.push_back(model.generation());
  }
  std::optional<uint64_t>& first = it->second[index];
  const bool differs = first.has_value() && *first != hash;
  if (!first.has_value()) first = hash;
  if (order_.size() > kMaxGenerations) {
    hashes_.erase(order_.front());
    order_.pop_front();
  }
  return differs;
}

}  // namespace gguf_offload::store

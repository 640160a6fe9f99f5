// Hashes of tensors, for finding files that have changed under their mapping.
#ifndef WEIGHTD_STORE_TENSOR_HASH_H_
#define WEIGHTD_STORE_TENSOR_HASH_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "weightd/store/model.h"

namespace gguf_offload::store {

// xxh64 (seed 0) of the bytes of model.tensors()[index]. Checks after every few MiB that what was
// read was there; DATA_LOSS if not. OUT_OF_RANGE for an index that does not exist.
absl::StatusOr<uint64_t> HashTensorBytes(const Model& model, size_t index);

// The hash of each tensor when it was first computed, by generation. Owns 16 bytes a tensor for the
// kMaxGenerations generations verified last; older ones are forgotten. Thread safe.
class HashBaselines {
 public:
  static constexpr size_t kMaxGenerations = 64;

  // Remembers `hash` if it is the first for this tensor; otherwise says whether it differs from the
  // first.
  bool DiffersFromFirst(const Model& model, size_t index, uint64_t hash);

 private:
  absl::Mutex mutex_;
  absl::flat_hash_map<uint64_t, std::vector<std::optional<uint64_t>>> hashes_
      ABSL_GUARDED_BY(mutex_);                          // by generation, then tensor
  std::deque<uint64_t> order_ ABSL_GUARDED_BY(mutex_);  // generations, oldest first
};

}  // namespace gguf_offload::store

#endif  // WEIGHTD_STORE_TENSOR_HASH_H_

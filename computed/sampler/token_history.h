// The last tokens of a sequence, counted.
#ifndef COMPUTED_SAMPLER_TOKEN_HISTORY_H_
#define COMPUTED_SAMPLER_TOKEN_HISTORY_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace gguf_offload {

// Not thread safe.
class TokenHistory {
 public:
  // Remembers the last `window` tokens.
  explicit TokenHistory(size_t window) : window_(window) {}

  void Add(int32_t token) {
    if (window_ == 0) return;
    if (ring_.size() < window_) {
      ring_.push_back(token);
    } else {
      const auto oldest = counts_.find(ring_[next_]);
      if (--oldest->second == 0) counts_.erase(oldest);
      ring_[next_] = token;
      next_ = next_ + 1 == window_ ? 0 : next_ + 1;
    }
    ++counts_[token];
  }

  // How often each token of the window occurs in it.
  const absl::flat_hash_map<int32_t, int>& counts() const { return counts_; }

 private:
  size_t window_;
  std::vector<int32_t> ring_;  // the tokens; once full, the oldest is at next_
  size_t next_ = 0;
  absl::flat_hash_map<int32_t, int> counts_;
};

}  // namespace gguf_offload

#endif  // COMPUTED_SAMPLER_TOKEN_HISTORY_H_

#include "computed/sampler/argmax.h"

#include <cstddef>
#include <limits>

namespace gguf_offload {

float MaxLogit(std::span<const float> logits) {
  // Independent lanes, which the compiler turns into vectors. The comparison is false for NaN.
  constexpr size_t kLanes = 32;
  float lanes[kLanes];
  for (float& lane : lanes) lane = -std::numeric_limits<float>::infinity();
  size_t i = 0;
  for (; logits.size() - i >= kLanes; i += kLanes) {
    for (size_t k = 0; k < kLanes; ++k) {
      lanes[k] = logits[i + k] > lanes[k] ? logits[i + k] : lanes[k];
    }
  }
  for (size_t k = 0; i < logits.size(); ++i, ++k) {
    lanes[k] = logits[i] > lanes[k] ? logits[i] : lanes[k];
  }
  float max = lanes[0];
  for (float lane : lanes) max = lane > max ? lane : max;
  return max;
}

int32_t ArgMax(std::span<const float> logits) {
  if (logits.empty()) return -1;
  const float max = MaxLogit(logits);
  if (max == -std::numeric_limits<float>::infinity()) return 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] == max) return static_cast<int32_t>(i);
  }
  return 0;
}

bool CanChooseBy(std::span<const float> logits) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  // Whole vectors at a time; the comparison is false for NaN.
  int bad = 0;
  for (const float logit : logits) bad |= !(logit < kInfinity);
  return bad == 0 && MaxLogit(logits) > -kInfinity;
}

}  // namespace gguf_offload

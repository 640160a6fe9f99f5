#include "kernels/matmul/quantized_activations.h"

#include <algorithm>

namespace gguf_offload {

void QuantizedActivations::Reset(int tokens, size_t cols) {
  tokens_ = tokens;
  cols_ = cols;
  correction_count_ = 0;
}

int QuantizedActivations::AddCorrection(int bias, int group_elements) {
  for (int i = 0; i < correction_count_; ++i) {
    if (corrections_[i].bias == bias && corrections_[i].group_elements == group_elements) return i;
  }
  if (correction_count_ == static_cast<int>(corrections_.size())) corrections_.emplace_back();
  Correction& correction = corrections_[correction_count_];
  correction.bias = bias;
  correction.group_elements = group_elements;
  const size_t elements = static_cast<size_t>(tokens_) * cols_;
  values_.Reserve(elements);
  scales_.Reserve(elements / 32);
  sums_.Reserve(elements / 16);
  correction.initial_sums.Reserve(elements / group_elements);
  correction.scaled_sums.Reserve(elements / group_elements);
  correction.panels.clear();
  for (int panel = 0; panel < panels(); ++panel) {
    const size_t begin = static_cast<size_t>(panel) * kPanelTokens;
    const size_t first_group = begin * (cols_ / group_elements);
    correction.panels.push_back({PanelTokens(panel), values_.data() + begin * cols_,
                                 scales_.data() + begin * (cols_ / 32),
                                 correction.initial_sums.data() + first_group,
                                 correction.scaled_sums.data() + first_group});
  }
  return correction_count_++;
}

int QuantizedActivations::PanelTokens(int panel) const {
  return std::min(kPanelTokens, tokens_ - panel * kPanelTokens);
}

void QuantizedActivations::QuantizePanel(int panel, const float* x, int64_t x_stride) {
  const int tokens = PanelTokens(panel);
  const size_t begin = static_cast<size_t>(panel) * kPanelTokens;
  int8_t* values = values_.data() + begin * cols_;
  float* scales = scales_.data() + begin * (cols_ / 32);
  int32_t* sums = sums_.data() + begin * (cols_ / 16);
  FindTileKernels().quantize(x + begin * x_stride, x_stride, tokens, cols_, values, scales, sums);
  for (int i = 0; i < correction_count_; ++i) {
    Correction& correction = corrections_[i];
    const size_t groups = cols_ / correction.group_elements;
    int32_t* initial_sums = correction.initial_sums.data() + begin * groups;
    float* scaled_sums = correction.scaled_sums.data() + begin * groups;
    for (size_t group = 0; group < groups; ++group) {
      for (int token = 0; token < tokens; ++token) {
        int32_t sum;
        size_t group_of_32 = group;
        if (correction.group_elements == 16) {
          sum = sums[group * tokens + token];
          group_of_32 /= 2;
        } else {
          sum = sums[2 * group * tokens + token] + sums[(2 * group + 1) * tokens + token];
        }
        initial_sums[group * tokens + token] = -correction.bias * sum;
        scaled_sums[group * tokens + token] =
            scales[group_of_32 * tokens + token] * static_cast<float>(sum);
      }
    }
  }
}

}  // namespace gguf_offload

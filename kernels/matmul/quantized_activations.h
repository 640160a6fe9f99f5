// Activations quantized to 8 bits, laid out for the integer kernels.
//
// Tokens are cut into panels of up to kPanelTokens, the number of tokens that the integer kernel
// multiplies at a time; within a panel the numbers of one group of columns lie together for all
// tokens, so that the kernel reads them in order.
#ifndef KERNELS_MATMUL_QUANTIZED_ACTIVATIONS_H_
#define KERNELS_MATMUL_QUANTIZED_ACTIVATIONS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/matmul/aligned_buffer.h"
#include "kernels/matmul/tile_kernels.h"

namespace gguf_offload {

// Owns its memory, which grows to what the largest call needs. Thread compatible; QuantizePanel may
// run for different panels at once.
class QuantizedActivations {
 public:
  // Forgets everything: from now on there are `tokens` tokens of `cols` columns (a multiple of 32).
  void Reset(int tokens, size_t cols);

  // Asks for the corrections that weights of this bias and group size need; returns their number,
  // to be given to Panels. After Reset, before QuantizePanel.
  int AddCorrection(int bias, int group_elements);

  int panels() const { return (tokens_ + kPanelTokens - 1) / kPanelTokens; }

  // Quantizes the tokens of panel `panel`. x: (tokens, cols), all tokens, row stride x_stride.
  void QuantizePanel(int panel, const float* x, int64_t x_stride);

  // (panels()) panels, valid once each is quantized.
  const ActivationPanel* Panels(int correction) const {
    return corrections_[correction].panels.data();
  }

 private:
  struct Correction {
    int bias;
    int group_elements;
    // Panels one after the other, each (cols / group_elements, panel tokens).
    AlignedBuffer<int32_t> initial_sums;
    AlignedBuffer<float> scaled_sums;
    std::vector<ActivationPanel> panels;
  };

  int PanelTokens(int panel) const;

  int tokens_ = 0;
  size_t cols_ = 0;
  AlignedBuffer<int8_t> values_;  // panels one after the other, each (cols / 32, panel tokens, 32)
  AlignedBuffer<float> scales_;   // panels one after the other, each (cols / 32, panel tokens)
  AlignedBuffer<int32_t> sums_;   // panels one after the other, each (cols / 16, panel tokens)
  std::vector<Correction> corrections_;
  int correction_count_ = 0;  // of corrections_; the others keep their memory for later
};

}  // namespace gguf_offload

#endif  // KERNELS_MATMUL_QUANTIZED_ACTIVATIONS_H_

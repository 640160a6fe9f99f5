// Rotary position embedding (Su et al. 2021, arXiv:2104.09864) with linear and YaRN context
// extension (Peng et al. 2023, arXiv:2309.00071) and Llama 3's frequency factors.
//
// RopeFrequencies is built once a model, RopeAngles once a step (the angles of all its tokens), and
// Rope turns the queries and keys of a layer. What is computed follows ggml_rope_ext, with angles
// in double precision.
#ifndef KERNELS_OPS_ROPE_H_
#define KERNELS_OPS_ROPE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/threading/thread_pool.h"

namespace gguf_offload {

enum class RopeScaling { kNone, kLinear, kYarn };

enum class RopeStyle {
  kNormal,  // pairs are neighbours: (0, 1), (2, 3)... (Llama)
  kNeox,    // pairs are half the rotated dimensions apart: (0, d/2), (1, d/2 + 1)... (Qwen)
};

struct RopeParameters {
  int rope_dims = 0;  // rotated dimensions at the start of each head; even
  float freq_base = 10000.0f;
  RopeScaling scaling = RopeScaling::kNone;
  float factor = 1.0f;       // by how much kLinear and kYarn extend the context
  float attn_factor = 1.0f;  // multiplies the magnitude of what is rotated
  // YaRN only.
  float ext_factor = 1.0f;   // how much of the ramp is applied
  int original_context = 0;  // tokens the model was first trained with
  float beta_fast = 32.0f;   // pairs that turn more often than this within that context keep theirs
  float beta_slow = 1.0f;    // pairs that turn less often than this are interpolated by `factor`
  // Each pair's angle is divided by its factor. Null: all 1. Read by the constructor only.
  const float* freq_factors = nullptr;  // (rope_dims / 2) or null
};

// What one position adds to the angle of each pair, and the magnitude of the result. Immutable.
class RopeFrequencies {
 public:
  RopeFrequencies() = default;
  explicit RopeFrequencies(const RopeParameters& parameters);

  int pairs() const { return static_cast<int>(radians_.size()); }
  // Radians a position of pair `pair`, 0 <= pair < pairs().
  double radians(int pair) const { return radians_[pair]; }
  // Multiplies both elements of every pair: attn_factor and, for YaRN, 1 + 0.1 ln(factor).
  float magnitude() const { return magnitude_; }

 private:
  std::vector<double> radians_;  // (pairs)
  float magnitude_ = 1.0f;
};

// Cosine and sine, times the magnitude, of every pair at the positions of a batch's tokens. Memory
// only grows, so that a step of a size seen before allocates nothing. Thread compatible.
class RopeAngles {
 public:
  void Compute(const RopeFrequencies& frequencies,
               const int32_t* positions,  // (n), >= 0
               size_t n, ThreadPool& pool);

  size_t rows() const { return rows_; }
  int pairs() const { return pairs_; }
  const float* cosines() const { return cosines_.data(); }  // (rows, pairs)
  const float* sines() const { return sines_.data(); }      // (rows, pairs)

 private:
  size_t rows_ = 0;
  int pairs_ = 0;
  std::vector<float> cosines_;
  std::vector<float> sines_;
};

// Rotates, in place, the first 2 * angles.pairs() elements of each head of angles.rows() rows.
// Strides are in elements. Element by element: rows do not influence each other.
void Rope(
    float* x,  // (angles.rows(), heads, head_dim), rows row_stride and heads head_stride apart
    size_t row_stride, size_t head_stride, size_t heads, const RopeAngles& angles, RopeStyle style,
    ThreadPool& pool);

}  // namespace gguf_offload

#endif  // KERNELS_OPS_ROPE_H_

#include "kernels/attention/kv_cache.h"

#include <cstring>

#include "kernels/ops/row_chunks.h"
#include "kernels/ops/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention/kv_cache.cc"
#include "hwy/foreach_target.h"

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace gguf_offload {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// to (n), float16, unaligned allowed
void StoreFloat16(const float* from, size_t n, uint8_t* to) {
  const hn::ScalableTag<float> d;
  const hn::Rebind<hwy::float16_t, decltype(d)> d16;
  const size_t lanes = hn::Lanes(d);
  HWY_ALIGN float floats[hn::MaxLanes(d)] = {};
  HWY_ALIGN hwy::float16_t halves[hn::MaxLanes(d)];
  for (size_t i = 0; i < n; i += lanes) {
    const size_t count = n - i < lanes ? n - i : lanes;
    std::memcpy(floats, from + i, count * sizeof(float));
    hn::Store(hn::DemoteTo(d16, hn::Load(d, floats)), d16, halves);
    std::memcpy(to + 2 * i, halves, 2 * count);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace gguf_offload
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gguf_offload {

HWY_EXPORT(StoreFloat16);

namespace {

void StoreHead(KvType type, const float* from, size_t n, uint8_t* to) {
  if (type == KvType::kFloat16) {
    HWY_DYNAMIC_DISPATCH(StoreFloat16)(from, n, to);
  } else {
    std::memcpy(to, from, n * sizeof(float));
  }
}

}  // namespace

void WriteKv(const float* k, size_t k_stride, const float* v, size_t v_stride,
             std::span<const SequenceRows> batch, const KvLayer& layer, ThreadPool& pool) {
  const size_t element_bytes = KvElementBytes(layer.type);
  const size_t row_elements = static_cast<size_t>(layer.n_kv_heads) * (layer.k_dim + layer.v_dim);
  for (const SequenceRows& sequence : batch) {
    ForEachRowChunk(sequence.rows, row_elements, pool, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) {
        const size_t position = sequence.first_position + i;
        const int32_t page = sequence.pages[position / kPageTokens];
        const size_t slot = position % kPageTokens;
        const float* k_row = k + (sequence.first_row + i) * k_stride;
        for (int head = 0; head < layer.n_kv_heads; ++head) {
          StoreHead(layer.type, k_row + static_cast<size_t>(head) * layer.k_dim, layer.k_dim,
                    layer.Keys(page, head) + slot * layer.k_dim * element_bytes);
          if (layer.values_in_keys) continue;
          const float* v_row = v + (sequence.first_row + i) * v_stride;
          StoreHead(layer.type, v_row + static_cast<size_t>(head) * layer.v_dim, layer.v_dim,
                    layer.Values(page, head) + slot * layer.v_dim * element_bytes);
        }
      }
    });
  }
}

}  // namespace gguf_offload
#endif  // HWY_ONCE

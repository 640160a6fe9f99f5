#include "kernels/quant/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/quant/dequantize.cc"
#include <hwy/foreach_target.h>
// After foreach_target.
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "kernels/quant/dequantize.h"
#include "kernels/quant/numbers.h"
#include "kernels/quant/unpack.h"

HWY_BEFORE_NAMESPACE();
namespace gguf_offload::quant {
namespace HWY_NAMESPACE {

// out = scale * (u - bias) + offset; `offset` is null for formats without.
template <int kGroupElements>
void ApplyScales(const uint8_t* HWY_RESTRICT u, int bias, const float* HWY_RESTRICT scale,
                 const float* HWY_RESTRICT offset, size_t elements, float* HWY_RESTRICT out) {
  for (size_t group = 0; group < elements / kGroupElements; ++group) {
    const uint8_t* group_u = u + group * kGroupElements;
    float* group_out = out + group * kGroupElements;
    for (int i = 0; i < kGroupElements; ++i) {
      group_out[i] = scale[group] * static_cast<float>(static_cast<int>(group_u[i]) - bias);
    }
    if (offset == nullptr) continue;
    for (int i = 0; i < kGroupElements; ++i) group_out[i] += offset[group];
  }
}

void DequantizeBlocks(const Unpacker& unpacker, const Format& format, const uint8_t* blocks,
                      size_t elements, float* HWY_RESTRICT out) {
  alignas(64) uint8_t u[kMaxBlockElements];
  alignas(64) float scale[kMaxBlockElements / 16];
  alignas(64) float offset[kMaxBlockElements / 16];
  for (size_t begin = 0; begin < elements; begin += kMaxBlockElements) {
    const size_t count = std::min(kMaxBlockElements, elements - begin);
    unpacker.rows(blocks + RowBytes(format, begin), 0, 1, count,
                  {u, kMaxBlockElements, scale, offset, kMaxBlockElements / 16});
    const float* offsets = unpacker.has_offset ? offset : nullptr;
    if (unpacker.group_elements == 16) {
      ApplyScales<16>(u, unpacker.bias, scale, offsets, count, out + begin);
    } else {
      ApplyScales<32>(u, unpacker.bias, scale, offsets, count, out + begin);
    }
  }
}

template <typename T>
void ConvertNumbers(const uint8_t* numbers, size_t elements, float* HWY_RESTRICT out) {
  for (size_t i = 0; i < elements; ++i) {
    T value;
    memcpy(&value, numbers + i * sizeof(T), sizeof(T));
    out[i] = static_cast<float>(value);
  }
}

void ConvertHalfs(const uint8_t* numbers, size_t elements, float* HWY_RESTRICT out) {
  size_t i = 0;
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3_DL
  for (; elements - i >= 8; i += 8) {
    const __m128i halfs = _mm_loadu_si128(reinterpret_cast<const __m128i*>(numbers + 2 * i));
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(halfs));
  }
#endif
  for (; i < elements; ++i) {
    uint16_t half;
    memcpy(&half, numbers + 2 * i, sizeof(half));
    out[i] = HalfToFloat(half);
  }
}

void ConvertBfloat16s(const uint8_t* numbers, size_t elements, float* HWY_RESTRICT out) {
  for (size_t i = 0; i < elements; ++i) {
    uint16_t value;
    memcpy(&value, numbers + 2 * i, sizeof(value));
    out[i] = Bfloat16ToFloat(value);
  }
}

void DequantizeAny(TensorType type, const uint8_t* blocks, size_t elements,
                   float* HWY_RESTRICT out) {
  switch (type) {
    case TensorType::kF32:
      memcpy(out, blocks, elements * sizeof(float));
      return;
    case TensorType::kF16:
      return ConvertHalfs(blocks, elements, out);
    case TensorType::kBF16:
      return ConvertBfloat16s(blocks, elements, out);
    case TensorType::kF64:
      return ConvertNumbers<double>(blocks, elements, out);
    case TensorType::kI8:
      return ConvertNumbers<int8_t>(blocks, elements, out);
    case TensorType::kI16:
      return ConvertNumbers<int16_t>(blocks, elements, out);
    case TensorType::kI32:
      return ConvertNumbers<int32_t>(blocks, elements, out);
    case TensorType::kI64:
      return ConvertNumbers<int64_t>(blocks, elements, out);
    default:
      return DequantizeBlocks(*FindUnpacker(type), FormatOf(type), blocks, elements, out);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace gguf_offload::quant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gguf_offload::quant {

HWY_EXPORT(DequantizeAny);

void Dequantize(TensorType type, const void* blocks, size_t elements, float* out) {
  HWY_DYNAMIC_DISPATCH(DequantizeAny)(type, static_cast<const uint8_t*>(blocks), elements, out);
}

}  // namespace gguf_offload::quant
#endif  // HWY_ONCE

#include "tests/modelgen/quantize/quantize.h"

#include <cmath>
#include <cstring>

#include "tests/modelgen/half.h"
#include "tests/modelgen/quantize/offset_formats.h"
#include "tests/modelgen/quantize/signed_formats.h"

namespace gguf_offload {
namespace {

using quant::TensorType;
using EncodeBlock = void (*)(const float* x, uint8_t* block);

EncodeBlock FindEncoder(TensorType type) {
  switch (type) {
    case TensorType::kQ8_0:
      return EncodeQ8_0;
    case TensorType::kQ6_K:
      return EncodeQ6_K;
    case TensorType::kQ5_K:
      return EncodeQ5_K;
    case TensorType::kQ4_K:
      return EncodeQ4_K;
    case TensorType::kQ3_K:
      return EncodeQ3_K;
    case TensorType::kQ2_K:
      return EncodeQ2_K;
    case TensorType::kQ4_0:
      return EncodeQ4_0;
    case TensorType::kIQ4_NL:
      return EncodeIq4Nl;
    case TensorType::kIQ4_XS:
      return EncodeIq4Xs;
    case TensorType::kMXFP4:
      return EncodeMxfp4;
    default:
      return nullptr;
  }
}

bool IsFloat(TensorType type) {
  return type == TensorType::kF32 || type == TensorType::kF16 || type == TensorType::kBF16;
}

template <uint16_t (*kRound)(float)>
void RoundAll(const float* values, size_t count, uint8_t* out) {
  for (size_t i = 0; i < count; ++i) {
    const uint16_t rounded = kRound(values[i]);
    std::memcpy(out + 2 * i, &rounded, sizeof rounded);
  }
}

}  // namespace

bool CanQuantize(TensorType type) { return IsFloat(type) || FindEncoder(type) != nullptr; }

float LargestMagnitude(TensorType type) {
  switch (type) {
    case TensorType::kF32:
      return 0x1.fffffep127f;
    case TensorType::kBF16:
      return 0x1.fep127f;
    case TensorType::kMXFP4:
      return 0x1p126f;
    default:
      return 65504;
  }
}

size_t FindUnquantizable(TensorType type, const float* values, size_t count) {
  const float largest = LargestMagnitude(type);
  for (size_t i = 0; i < count; ++i) {
    // Written so that NaN fails.
    if (!(std::fabs(values[i]) <= largest)) return i;
  }
  return count;
}

void Quantize(TensorType type, const float* values, size_t elements, uint8_t* blocks) {
  if (type == TensorType::kF32) {
    std::memcpy(blocks, values, elements * sizeof(float));
  } else if (type == TensorType::kF16) {
    RoundAll<ToHalf>(values, elements, blocks);
  } else if (type == TensorType::kBF16) {
    RoundAll<ToBfloat16>(values, elements, blocks);
  } else {
    const quant::Format& format = quant::FormatOf(type);
    const EncodeBlock encode = FindEncoder(type);
    for (size_t i = 0; i < elements / format.block_elements; ++i) {
      encode(values + i * format.block_elements, blocks + i * format.block_bytes);
    }
  }
}

}  // namespace gguf_offload

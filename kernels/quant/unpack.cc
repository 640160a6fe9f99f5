#include "kernels/quant/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/quant/unpack.cc"
#include <hwy/foreach_target.h>
// After foreach_target.
#include <hwy/highway.h>

#include "kernels/quant/attributes-inl.h"
#include "kernels/quant/unpack.h"
#include "kernels/quant/unpack_iq-inl.h"
#include "kernels/quant/unpack_k-inl.h"
#include "kernels/quant/unpack_rows-inl.h"
#include "kernels/quant/unpack_simple-inl.h"
#include "kernels/quant/unpack_tile-inl.h"

GGUF_OFFLOAD_BEFORE_NAMESPACE();
namespace gguf_offload::quant {
namespace HWY_NAMESPACE {

template <typename Decoder>
bool Matches(TensorType type, const Unpacker** found) {
  static constexpr Unpacker kUnpacker = {&UnpackRows<Decoder>,    &UnpackTile<Decoder>,
                                         kDotTile<Decoder>,       Decoder::kBias,
                                         Decoder::kGroupElements, Decoder::kHasOffset};
  if (type != Decoder::kType) return false;
  *found = &kUnpacker;
  return true;
}

template <typename... Decoders>
const Unpacker* FindAmong(TensorType type) {
  const Unpacker* found = nullptr;
  (Matches<Decoders>(type, &found) || ...);
  return found;
}

const Unpacker* Find(TensorType type) {
  return FindAmong<DecodeQ4_0, DecodeQ4_1, DecodeQ5_0, DecodeQ5_1, DecodeQ8_0, DecodeQ2_K,
                   DecodeQ3_K, DecodeQ4_K, DecodeQ5_K, DecodeQ6_K, DecodeIq2Xxs, DecodeIq2Xs,
                   DecodeIq2S, DecodeIq3Xxs, DecodeIq3S, DecodeIq1S, DecodeIq1M, DecodeIq4Nl,
                   DecodeIq4Xs, DecodeTq1_0, DecodeTq2_0, DecodeMxfp4, DecodeNvfp4, DecodeQ1_0,
                   DecodeQ2_0>(type);
}

}  // namespace HWY_NAMESPACE
}  // namespace gguf_offload::quant
GGUF_OFFLOAD_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gguf_offload::quant {

HWY_EXPORT(Find);

const Unpacker* FindUnpacker(TensorType type) { return HWY_DYNAMIC_DISPATCH(Find)(type); }

}  // namespace gguf_offload::quant
#endif  // HWY_ONCE

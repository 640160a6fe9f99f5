// Unpacker::rows, for any decoder. Compiled once a SIMD target.
#if defined(KERNELS_QUANT_UNPACK_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KERNELS_QUANT_UNPACK_ROWS_INL_H_
#undef KERNELS_QUANT_UNPACK_ROWS_INL_H_
#else
#define KERNELS_QUANT_UNPACK_ROWS_INL_H_
#endif

#include <iterator>
#include <utility>

#include "kernels/quant/attributes-inl.h"
#include "kernels/quant/bytes-inl.h"
#include "kernels/quant/unpack.h"
#include "kernels/quant/words-inl.h"

GGUF_OFFLOAD_BEFORE_NAMESPACE();
namespace gguf_offload::quant {
namespace HWY_NAMESPACE {

// Whether Decoder::Run is a template for one row or two at once, and whether it has Run at all.
template <typename Decoder>
constexpr bool kHasRunTemplate = requires(const uint8_t* block) {
  Decoder::template Run<Bytes32>(block, 0);
};
template <typename Decoder>
constexpr bool kHasRun = kHasRunTemplate<Decoder> || requires(const uint8_t* block) {
  Decoder::Run(block, 0);
};

// Left to itself, the compiler calls large lambdas, and then `run` is no constant in them.
#undef INLINE_LAMBDA
#define INLINE_LAMBDA GGUF_OFFLOAD_ATTR __attribute__((always_inline))

// Calls function(run) for each run of a block, in a way that lets it be a constant.
template <typename Decoder, typename Function>
HWY_INLINE void ForEachRun(const Function& function) {
  const auto call = [&]<int... kRun>(std::integer_sequence<int, kRun...>) INLINE_LAMBDA {
    (function(kRun), ...);
  };
  call(std::make_integer_sequence<int, Decoder::kBlockElements / 32>());
}

template <typename Decoder>
HWY_INLINE void UnpackValues(const uint8_t* HWY_RESTRICT block, uint8_t* HWY_RESTRICT u) {
  if constexpr (kHasRunTemplate<Decoder>) {
    ForEachRun<Decoder>([=](int run) GGUF_OFFLOAD_ATTR {
      Decoder::template Run<Bytes32>(block, run).Store(u + 32 * run);
    });
  } else if constexpr (kHasRun<Decoder>) {
    for (int run = 0; run < Decoder::kBlockElements / 32; ++run) {
      Decoder::Run(block, run).Store(u + 32 * run);
    }
  } else {
    Decoder::Values(block, u);
  }
}

template <typename Decoder>
constexpr size_t kScaleWords = std::size(Decoder::kScaleWordsAt);

template <typename Decoder>
HWY_INLINE void UnpackScales(const uint8_t* block, float* HWY_RESTRICT scale,
                             float* HWY_RESTRICT offset) {
  uint32_t words[kScaleWords<Decoder>];
  for (size_t i = 0; i < kScaleWords<Decoder>; ++i) {
    words[i] = LoadAs<uint32_t>(block + Decoder::kScaleWordsAt[i]);
  }
  Decoder::Scales(words, scale, offset);
}

template <typename Decoder>
void UnpackRows(const uint8_t* blocks, size_t row_bytes, size_t rows, size_t elements,
                const UnpackedRows& out) {
  constexpr size_t kGroups = Decoder::kBlockElements / Decoder::kGroupElements;
  for (size_t row = 0; row < rows; ++row) {
    const uint8_t* block = blocks + row * row_bytes;
    uint8_t* u = out.u + row * out.u_stride;
    float* scale = out.scale + row * out.group_stride;
    float* offset = Decoder::kHasOffset ? out.offset + row * out.group_stride : nullptr;
    for (size_t done = 0; done < elements; done += Decoder::kBlockElements) {
      UnpackScales<Decoder>(block, scale, offset);
      UnpackValues<Decoder>(block, u + done);
      block += Decoder::kBlockBytes;
      scale += kGroups;
      if constexpr (Decoder::kHasOffset) offset += kGroups;
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace gguf_offload::quant
GGUF_OFFLOAD_AFTER_NAMESPACE();

#endif  // KERNELS_QUANT_UNPACK_ROWS_INL_H_

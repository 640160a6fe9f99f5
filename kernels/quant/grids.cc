#include "kernels/quant/grids.h"

#include <cstddef>

#include "kernels/quant/grid_constants.h"

namespace gguf_offload::quant {
namespace {

// Expands packed words of `kBits` bits a value to words of one byte a value.
template <typename Word, int kBits, size_t kEntries, size_t kLevels>
constexpr std::array<Word, kEntries> Expand(const std::array<uint16_t, kEntries>& packed,
                                            const std::array<uint8_t, kLevels>& levels) {
  std::array<Word, kEntries> expanded{};
  for (size_t entry = 0; entry < kEntries; ++entry) {
    Word word = 0;
    for (size_t i = 0; i < sizeof(Word); ++i) {
      const uint32_t index = (packed[entry] >> (kBits * i)) & ((1u << kBits) - 1);
      word |= static_cast<Word>(levels[index]) << (8 * i);
    }
    expanded[entry] = word;
  }
  return expanded;
}

constexpr std::array<uint64_t, 256> ExpandSigns() {
  std::array<uint64_t, 256> masks{};
  for (size_t signs = 0; signs < masks.size(); ++signs) {
    for (size_t bit = 0; bit < 8; ++bit) {
      if ((signs >> bit) & 1) masks[signs] |= uint64_t{0xff} << (8 * bit);
    }
  }
  return masks;
}

constexpr std::array<uint8_t, 16> PlusBias(const std::array<int, 16>& values) {
  std::array<uint8_t, 16> biased{};
  for (size_t i = 0; i < values.size(); ++i) biased[i] = static_cast<uint8_t>(values[i] + 128);
  return biased;
}

}  // namespace

constexpr std::array<uint64_t, 256> kGridIq2Xxs = Expand<uint64_t, 2>(kPackedIq2Xxs, kLevelsIq2);
constexpr std::array<uint64_t, 512> kGridIq2Xs = Expand<uint64_t, 2>(kPackedIq2Xs, kLevelsIq2);
constexpr std::array<uint64_t, 1024> kGridIq2S = Expand<uint64_t, 2>(kPackedIq2S, kLevelsIq2);
constexpr std::array<uint32_t, 256> kGridIq3Xxs = Expand<uint32_t, 3>(kPackedIq3Xxs, kLevelsIq3Xxs);
constexpr std::array<uint32_t, 512> kGridIq3S = Expand<uint32_t, 3>(kPackedIq3S, kLevelsIq3S);
constexpr std::array<uint64_t, 2048> kGridIq1S = Expand<uint64_t, 2>(kPackedIq1S, kLevelsIq1S);
constexpr std::array<uint64_t, 256> kSignBytes = ExpandSigns();
constexpr std::array<uint8_t, 16> kValuesIq4Nl = PlusBias(kSignedValuesIq4Nl);
constexpr std::array<uint8_t, 16> kValuesFp4 = PlusBias(kSignedValuesFp4);

}  // namespace gguf_offload::quant

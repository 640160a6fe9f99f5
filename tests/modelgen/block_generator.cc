// The blocks' layouts, in the order of their bytes, and the value of element i. d, m and dmin are
// half-precision numbers; [n] is a count of bytes; q is the element's code. They follow
// github.com/ggml-org/ggml, src/ggml-common.h and the dequantize functions of src/ggml-quants.c.
//
//   Q4_0     d, q[16]: nibbles                                          d * (q - 8)
//   Q4_1     d, m, q[16]: nibbles                                       d * q + m
//   Q5_0     d, high[4]: fifth bits, q[16]                              d * (q - 16)
//   Q5_1     d, m, high[4], q[16]                                       d * q + m
//   Q8_0     d, q[32]: int8                                             d * q
//   Q2_K     scales[16]: nibbles s | m << 4, q[64]: 2 bits, d, dmin     d * s * q - dmin * m
//   Q3_K     high[32]: third bits, q[64]: 2 bits, scales[12]: 6 bits, d d * (s - 32) * (q - 4)
//   Q4_K     d, dmin, scales[12]: eight pairs of 6 bits, q[128]         d * s * q - dmin * m
//   Q5_K     d, dmin, scales[12], high[32], q[128]                      d * s * q - dmin * m
//   Q6_K     low[128]: nibbles, high[64]: 2 bits, scales[16]: int8, d   d * s * (q - 32)
//   TQ1_0    q[48]: five trits a byte, q[4]: four trits a byte, d       d * (q - 1)
//   TQ2_0    q[64]: 2 bits, d                                           d * (q - 1)
//   IQ2_XXS  d, 8 x (index[4], 4 x 7 sign bits + 4-bit scale)           d * (s + 1/2) / 4 * grid
//   IQ2_XS   d, 32 x (9-bit index + 7 sign bits), scales[8]: nibbles    d * (s + 1/2) / 4 * grid
//   IQ2_S    d, index[32], signs[32], high[8], scales[8]: nibbles       d * (s + 1/2) / 4 * grid
//   IQ3_XXS  d, index[64], 8 x (4 x 7 sign bits + 4-bit scale)          d * (s + 1/2) / 2 * grid
//   IQ3_S    d, index[64], high[8], signs[32], scales[4]: nibbles       d * (2 s + 1) * grid
//   IQ1_S    d, index[32], 8 x (4 x 3 high bits, 3-bit scale, sign)     d * (2 s + 1) * (grid + e)
//   IQ1_M    index[32], high[16]: 3 bits and a sign for each index,
//            scales[8]: 4 x (4 x 3-bit scale, 4 bits of d)              d * (2 s + 1) * (grid + e)
//            (of both: e is 1/8, or -1/8 where the sign is set)
//   IQ4_NL   d, q[16]: nibbles into a table of 16 values                d * table
//   IQ4_XS   d, high[2], low[4]: 6-bit scales, q[128]: nibbles          d * (s - 32) * table
//   MXFP4    e: power of two (E8M0), q[16]: nibbles (E2M1)              2^(e - 127) * q
//   NVFP4    e[4]: UE4M3 scales of 16 elements each, q[32]: nibbles     e * q
//   Q1_0     d, q[16]: bits                                             d * (2 q - 1)
//   Q2_0     d, q[16]: 2 bits                                           d * (q - 1)
#include "tests/modelgen/block_generator.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tests/modelgen/block_scales.h"
#include "tests/modelgen/half.h"

namespace gguf_offload {
namespace {

using quant::TensorType;

// A counter-based generator in the manner of wyrand: the two halves of a product, folded.
uint64_t RandomWord(uint64_t seed, uint64_t counter) {
  const uint64_t state = seed + counter * 0xa0761d6478bd642fULL;
  const auto product = static_cast<unsigned __int128>(state) * (state ^ 0xe7037ed1a0b428dbULL);
  return static_cast<uint64_t>(product >> 64) ^ static_cast<uint64_t>(product);
}

// The bytes [begin, begin + bytes) of the endless random string that belongs to `seed`.
void FillRandom(uint64_t seed, uint64_t begin, uint64_t bytes, uint8_t* out) {
  uint64_t counter = begin / 8;
  if (const uint64_t skip = begin % 8; skip != 0) {
    const uint64_t word = RandomWord(seed, counter++) >> (8 * skip);
    const uint64_t head = std::min(bytes, 8 - skip);
    std::memcpy(out, &word, head);
    out += head;
    bytes -= head;
  }
  for (; bytes >= 8; bytes -= 8, out += 8) {
    const uint64_t word = RandomWord(seed, counter++);
    std::memcpy(out, &word, 8);
  }
  if (bytes != 0) {
    const uint64_t word = RandomWord(seed, counter);
    std::memcpy(out, &word, bytes);
  }
}

template <typename T>
T Load(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <typename T>
void Store(T value, uint8_t* to) {
  std::memcpy(to, &value, sizeof value);
}

// Calls patch(block) for each block; the lambda is inlined, the block size is not a constant.
template <typename Patch>
void ForEachBlock(TensorType type, uint64_t blocks, uint8_t* out, const Patch& patch) {
  const uint64_t block_bytes = quant::FormatOf(type).block_bytes;
  for (uint64_t i = 0; i < blocks; ++i) patch(out + i * block_bytes);
}

// Gives eight pairs of a 6-bit scale and a 6-bit minimum (Q4_K, Q5_K) scales from 32 to 63 and
// minimums that differ from them by at most three. Bytes 0 to 3 hold four scales and the upper bits
// of the other four, bytes 4 to 7 the same of the minimums, bytes 8 to 11 the lower nibbles.
void PairScalesWithMinimums(uint8_t* scales) {
  const uint32_t upper = Load<uint32_t>(scales) | 0xa0a0a0a0;
  const uint32_t jitter = Load<uint32_t>(scales + 4) & 0x03030303;
  const uint32_t lower = Load<uint32_t>(scales + 8);
  const uint32_t nibbles = lower & 0x0f0f0f0f;
  Store(upper, scales);
  Store(upper ^ jitter, scales + 4);
  Store(nibbles | (nibbles << 4 ^ (lower & 0x30303030)), scales + 8);
}

// The valid encoding nearest below: a byte of `trits` base-three digits is ceil(number * 256 /
// 3^5).
uint8_t ToTrits(uint8_t random, uint32_t trits) {
  const uint32_t count = trits == 5 ? 243 : 81;
  const uint32_t number = (random * count >> 8) * (243 / count);
  return static_cast<uint8_t>((number * 256 + 242) / 243);
}

void PatchTernary(uint8_t* block) {
  for (int i = 0; i < 48; ++i) block[i] = ToTrits(block[i], 5);
  for (int i = 48; i < 52; ++i) block[i] = ToTrits(block[i], 4);
}

// `bytes` bytes of two-bit codes, 0 to 2 only: 3 becomes 1, which leaves the mean in the middle.
void PatchTwoBitTernary(uint8_t* from, int bytes) {
  for (int i = 0; i < bytes; i += 8) {
    const auto codes = Load<uint64_t>(from + i);
    const uint64_t threes = codes & codes >> 1 & 0x5555555555555555;
    Store(codes & ~(threes << 1), from + i);
  }
}

// The four bits of d are the upper ones of each of the four 16-bit words of scales.
void PatchScatteredScale(uint16_t scale, uint8_t* scales) {
  for (int i = 0; i < 4; ++i) {
    const auto word = Load<uint16_t>(scales + 2 * i);
    Store(static_cast<uint16_t>((word & 0x0fff) | (scale >> (4 * i)) << 12), scales + 2 * i);
  }
}

}  // namespace

uint64_t TensorSeed(uint64_t seed, std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325ULL ^ seed;  // FNV-1a
  for (const char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3ULL;
  return RandomWord(hash, 1);
}

bool BlockGenerator::Supports(TensorType type) {
  switch (type) {
    case TensorType::kF32:
    case TensorType::kF16:
    case TensorType::kBF16:
    case TensorType::kMXFP4:
    case TensorType::kNVFP4:
      return true;
    default:
      return UnitDeviation(type) != 0;
  }
}

BlockGenerator::BlockGenerator(TensorType type, uint64_t seed, double mean, double deviation)
    : type_(type), seed_(seed), mean_(static_cast<float>(mean)) {
  // Numbers are sums of two evenly distributed ones: a triangle is near enough to a bell.
  step_ = static_cast<float>(deviation / (std::sqrt(2) * EvenDeviation(65536)));
  if (type == TensorType::kF16 || type == TensorType::kBF16) {
    for (int sum = 0; sum <= 2 * 255; ++sum) {
      const auto value =
          static_cast<float>(mean + (sum - 255) * deviation / (std::sqrt(2) * EvenDeviation(256)));
      elements_[sum] = type == TensorType::kF16 ? ToHalf(value) : ToBfloat16(value);
    }
  } else if (const double unit = UnitDeviation(type); unit != 0) {
    const bool either_sign = type == TensorType::kQ4_0 || type == TensorType::kQ5_0 ||
                             type == TensorType::kIQ4_NL;  // codes with a mean beside zero
    for (int i = 0; i < 256; ++i) {
      const double variation = 0.75 + (i / 2) / 256.0;  // from 3/4 to 5/4, each value twice
      const double scale = deviation / unit * variation;
      scales_[i] = ToHalf(static_cast<float>(either_sign && i % 2 != 0 ? -scale : scale));
      const double offset = CentreOfCodes(type) * scale;
      const bool subtracted = type != TensorType::kQ4_1 && type != TensorType::kQ5_1;
      offsets_[i] = ToHalf(static_cast<float>(subtracted ? offset : -offset));
    }
  } else if (type == TensorType::kMXFP4 || type == TensorType::kNVFP4) {
    coarse_ = ChooseCoarseScale(type, deviation);
  }
}

void BlockGenerator::Generate(uint64_t first, uint64_t blocks, uint8_t* out) const {
  const uint64_t block_bytes = quant::FormatOf(type_).block_bytes;
  FillRandom(seed_, first * block_bytes, blocks * block_bytes, out);
  // The random byte where a scale goes picks the scale.
  const auto patch_scale = [this](uint8_t* at) { Store(scales_[*at], at); };
  const auto patch_pair = [this](uint8_t* at) {
    const uint8_t pick = *at;
    Store(scales_[pick], at);
    Store(offsets_[pick], at + 2);
  };
  const auto coarse = [this](uint8_t pick) {
    return static_cast<uint8_t>(coarse_.code + (pick < coarse_.chance_of_next ? 1 : 0));
  };
  const auto for_each = [&](const auto& patch) { ForEachBlock(type_, blocks, out, patch); };
  switch (type_) {
    case TensorType::kF32:
      return for_each([this](uint8_t* b) {
        const auto sum = static_cast<float>(Load<uint16_t>(b) + Load<uint16_t>(b + 2) - 65535);
        Store(mean_ + step_ * sum, b);
      });
    case TensorType::kF16:
    case TensorType::kBF16:
      return for_each([this](uint8_t* b) { Store(elements_[b[0] + b[1]], b); });
    case TensorType::kQ4_1:
    case TensorType::kQ5_1:
      return for_each(patch_pair);
    case TensorType::kQ8_0:  // quantizers never write -128
      return for_each([&](uint8_t* b) {
        patch_scale(b);
        for (int i = 2; i < 34; ++i) b[i] = b[i] == 0x80 ? 0x81 : b[i];
      });
    case TensorType::kQ2_K:
      return for_each([&](uint8_t* b) {
        for (int i = 0; i < 16; i += 8) {
          const uint64_t scales = (Load<uint64_t>(b + i) & 0x1717171717171717) | 0x0808080808080808;
          // The minimum is the scale, or beside it by one.
          Store(scales ^ (scales & 0x0f0f0f0f0f0f0f0f) << 4, b + i);
        }
        patch_pair(b + 80);
      });
    case TensorType::kQ3_K:
      return for_each([&](uint8_t* b) { patch_scale(b + 108); });
    case TensorType::kQ4_K:
    case TensorType::kQ5_K:
      return for_each([&](uint8_t* b) {
        patch_pair(b);
        PairScalesWithMinimums(b + 4);
      });
    case TensorType::kQ6_K:
      return for_each([&](uint8_t* b) { patch_scale(b + 208); });
    case TensorType::kTQ1_0:
      return for_each([&](uint8_t* b) {
        PatchTernary(b);
        patch_scale(b + 52);
      });
    case TensorType::kTQ2_0:
      return for_each([&](uint8_t* b) {
        PatchTwoBitTernary(b, 64);
        patch_scale(b + 64);
      });
    case TensorType::kQ2_0:
      return for_each([&](uint8_t* b) {
        patch_scale(b);
        PatchTwoBitTernary(b + 2, 16);
      });
    case TensorType::kIQ1_M:
      return for_each([&](uint8_t* b) { PatchScatteredScale(scales_[b[55]], b + 48); });
    case TensorType::kMXFP4:
      return for_each([&](uint8_t* b) { b[0] = coarse(b[0]); });
    case TensorType::kNVFP4:
      return for_each([&](uint8_t* b) {
        for (int i = 0; i < 4; ++i) b[i] = coarse(b[i]);
      });
    default:
      return for_each(patch_scale);  // all others begin with d
  }
}

}  // namespace gguf_offload

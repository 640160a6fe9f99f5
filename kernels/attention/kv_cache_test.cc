#include "kernels/attention/kv_cache.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/ops/simd_targets_for_test.h"

namespace gguf_offload {
namespace {

constexpr int kHeads = 3, kKeyDim = 20, kValueDim = 7;
constexpr int kPages = 4;

// A cache whose every byte is 0xFF: NaN in both element types.
struct Cache {
  explicit Cache(KvType type) {
    layer.type = type;
    layer.n_kv_heads = kHeads;
    layer.k_dim = kKeyDim;
    layer.v_dim = kValueDim;
    keys.assign(kPages * layer.PageKeyBytes(), 0xFF);
    values.assign(kPages * layer.PageValueBytes(), 0xFF);
    layer.keys = keys.data();
    layer.values = values.data();
  }
  KvLayer layer;
  std::vector<uint8_t> keys, values;
};

// The layout as the header states it, written out with one flat index.
size_t FlatIndex(int page, int head, int slot, int i, int dim) {
  return ((static_cast<size_t>(page) * kHeads + head) * kPageTokens + slot) * dim + i;
}

double FromFloat16(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

double ElementAt(KvType type, const std::vector<uint8_t>& bytes, size_t index) {
  if (type == KvType::kFloat16) {
    uint16_t bits;
    std::memcpy(&bits, &bytes[2 * index], 2);
    return FromFloat16(bits);
  }
  float x;
  std::memcpy(&x, &bytes[4 * index], 4);
  return x;
}

float KeyOf(int row, int head, int i) { return std::sin(1.0f + row + 0.3f * head + 0.01f * i); }
float ValueOf(int row, int head, int i) { return 100 * std::cos(row + 0.7f * head + 0.02f * i); }

TEST(WriteKvTest, StoresEveryRowAtItsPositionAndNothingElse) {
  ForEachSimdTarget([](const char* target) {
    SCOPED_TRACE(target);
    // Half a unit in the last place; a whole one where conversion is emulated.
    const double float16_error = std::string(target) == "SSE4" ? 0x1p-10 : 0x1p-11;
    for (KvType type : {KvType::kFloat32, KvType::kFloat16}) {
      Cache cache(type);
      // Two sequences; the first crosses from page 2 to page 0.
      const std::vector<int32_t> first = {2, 0}, second = {1};
      const std::vector<SequenceRows> batch = {{0, 9, 28, first.data()}, {9, 1, 5, second.data()}};
      const size_t k_stride = kHeads * kKeyDim + 3, v_stride = kHeads * kValueDim + 5;
      std::vector<float> k(10 * k_stride, NAN), v(10 * v_stride, NAN);
      for (int row = 0; row < 10; ++row) {
        for (int head = 0; head < kHeads; ++head) {
          for (int i = 0; i < kKeyDim; ++i) {
            k[row * k_stride + head * kKeyDim + i] = KeyOf(row, head, i);
          }
          for (int i = 0; i < kValueDim; ++i) {
            v[row * v_stride + head * kValueDim + i] = ValueOf(row, head, i);
          }
        }
      }
      ThreadPool pool(2);
      WriteKv(k.data(), k_stride, v.data(), v_stride, batch, cache.layer, pool);

      const double tolerance = type == KvType::kFloat16 ? float16_error : 0.0;
      std::vector<uint8_t> keys_left = cache.keys, values_left = cache.values;
      const auto check = [&](int row, int page, int slot) {
        for (int head = 0; head < kHeads; ++head) {
          const size_t bytes = KvElementBytes(type);
          for (int i = 0; i < kKeyDim; ++i) {
            const size_t index = FlatIndex(page, head, slot, i, kKeyDim);
            const double expected = KeyOf(row, head, i);
            EXPECT_LE(std::abs(ElementAt(type, cache.keys, index) - expected),
                      tolerance * std::abs(expected));
            std::memset(&keys_left[index * bytes], 0xFF, bytes);
          }
          for (int i = 0; i < kValueDim; ++i) {
            const size_t index = FlatIndex(page, head, slot, i, kValueDim);
            const double expected = ValueOf(row, head, i);
            EXPECT_LE(std::abs(ElementAt(type, cache.values, index) - expected),
                      tolerance * std::abs(expected));
            std::memset(&values_left[index * bytes], 0xFF, bytes);
          }
        }
      };
      for (int row = 0; row < 9; ++row) check(row, row < 4 ? 2 : 0, (28 + row) % kPageTokens);
      check(9, 1, 5);
      EXPECT_EQ(keys_left, std::vector<uint8_t>(keys_left.size(), 0xFF));
      EXPECT_EQ(values_left, std::vector<uint8_t>(values_left.size(), 0xFF));
    }
  });
}

}  // namespace
}  // namespace gguf_offload

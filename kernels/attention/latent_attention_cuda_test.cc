#include "kernels/attention/latent_attention_cuda.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "kernels/attention/attention_batch_for_test.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload::cuda {
namespace {

// Queries, weights and scores are rounded to float16.
constexpr double kTolerance = 4e-3;

AttentionShape Latent(int heads, int key_dim, int value_dim, float sharpness = 1) {
  return {.heads = heads,
          .kv_heads = 1,
          .key_dim = key_dim,
          .value_dim = value_dim,
          .sharpness = sharpness,
          .values_in_keys = true};
}

// The heads of DeepSeek V3 and of V2-Lite, one more than a block has, sizes that are no multiple of
// 8 or of 64, few heads.
const AttentionShape kShapes[] = {
    Latent(128, 576, 512), Latent(16, 576, 512), Latent(65, 288, 256),
    Latent(20, 44, 36),    Latent(4, 40, 32),    Latent(1, 130, 126),
};

std::string Describe(const AttentionShape& s) {
  return "heads " + std::to_string(s.heads) + " dims " + std::to_string(s.key_dim) + " " +
         std::to_string(s.value_dim);
}

class LatentAttentionCudaTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
  }
};

KvLayer KeysOnly(KvLayer layer) {
  layer.values = nullptr;
  return layer;
}

void ExpectDecode(const AttentionShape& shape, const std::vector<SequenceEnd>& sequences,
                  const DecodeSplits& splits) {
  SCOPED_TRACE(Describe(shape) + ", splits " + std::to_string(splits.splits) + " of at least " +
               std::to_string(splits.min_pages));
  AttentionBatch batch(shape, sequences, 5);
  DeviceArray<DecodeRow> rows(batch.decode_rows());
  const int n = static_cast<int>(rows.size());
  DeviceArray<uint8_t> read_soon(5 * 1000);
  std::vector<float> results[2];
  for (std::vector<float>& result : results) {
    ReadAhead ahead;
    if (&result == &results[1]) ahead = {read_soon.data(), 5000, 1700};
    DeviceArray<float> partials(LatentPartialFloats(n, shape.heads, shape.value_dim, splits));
    DeviceArray<float> out(batch.rows() * batch.out_stride());
    DecodeLatentAttention(batch.Rows(out.data()), rows.data(), n, batch.pages(),
                          KeysOnly(batch.layer()), batch.spec(), splits, partials.data(), ahead,
                          nullptr);
    ASSERT_EQ(cudaGetLastError(), cudaSuccess);
    result = out.ToHost();
  }
  batch.ExpectAttention(results[0], kTolerance);
  EXPECT_EQ(std::memcmp(results[0].data(), results[1].data(), 4 * results[0].size()), 0);
}

TEST_F(LatentAttentionCudaTest, DecodeAgreesWithTheDefinition) {
  const std::vector<SequenceEnd> sequences = {{0, 1}, {31, 2}, {100, 1}, {170, 1}};
  for (const AttentionShape& shape : kShapes) {
    for (const DecodeSplits& splits :
         {DecodeSplits{1, 1}, DecodeSplits{4, 1}, DecodeSplits{3, 2}}) {
      ExpectDecode(shape, sequences, splits);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(LatentAttentionCudaTest, DecodeOfALongSequence) {
  ExpectDecode(Latent(16, 576, 512), {{1999, 1}, {3, 1}}, ChooseLatentSplits(2, 16, 132));
}

TEST_F(LatentAttentionCudaTest, PrefillAgreesWithTheDefinition) {
  for (const AttentionShape& shape : kShapes) {
    for (int tile_rows : {kPrefillTileRows, 5}) {
      if (shape.heads > 100 && tile_rows == kPrefillTileRows) continue;  // slow to check
      SCOPED_TRACE(Describe(shape) + ", tiles of " + std::to_string(tile_rows));
      const std::vector<SequenceEnd> sequences =
          shape.heads > 100 ? std::vector<SequenceEnd>{{0, 7}, {90, 3}}
                            : std::vector<SequenceEnd>{{0, 1}, {0, 66}, {40, 33}};
      AttentionBatch batch(shape, sequences, 8);
      DeviceArray<PrefillTile> tiles(batch.Tiles(tile_rows));
      DeviceArray<float> out(batch.rows() * batch.out_stride());
      PrefillLatentAttention(batch.Rows(out.data()), tiles.data(), static_cast<int>(tiles.size()),
                             batch.pages(), KeysOnly(batch.layer()), batch.spec(), nullptr);
      ASSERT_EQ(cudaGetLastError(), cudaSuccess);
      batch.ExpectAttention(out.ToHost(), kTolerance);
      if (HasFatalFailure()) return;
    }
  }
}

// Scores of hundreds: the softmax neither overflows nor forgets the largest.
TEST_F(LatentAttentionCudaTest, LargeScores) {
  const AttentionShape shape = Latent(8, 96, 64, 100);
  AttentionBatch batch(shape, {{0, 70}}, 10);
  DeviceArray<PrefillTile> tiles(batch.Tiles(kPrefillTileRows));
  DeviceArray<float> out(batch.rows() * batch.out_stride());
  PrefillLatentAttention(batch.Rows(out.data()), tiles.data(), static_cast<int>(tiles.size()),
                         batch.pages(), KeysOnly(batch.layer()), batch.spec(), nullptr);
  ASSERT_EQ(cudaGetLastError(), cudaSuccess);
  batch.ExpectAttention(out.ToHost(), 0.3);
}

}  // namespace
}  // namespace gguf_offload::cuda

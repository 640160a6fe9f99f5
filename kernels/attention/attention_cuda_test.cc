#include "kernels/attention/attention_cuda.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "kernels/attention/attention_batch_for_test.h"
#include "kernels/attention/prefill_arguments.h"
#include "kernels/ops/quantized_rows_for_test.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload::cuda {
namespace {

// Weights are rounded to float16, relative error 2^-11; where queries are too, scores have errors
// that make weights as inexact again.
constexpr double kWeightTolerance = 1e-3, kQueryTolerance = 4e-3;

// Group sizes 1, 2, 3, 4, 7, 8, 12, 16, 20; heads from 2 to 256 elements; keys and values of
// different sizes; sizes that are no multiple of 8.
const AttentionShape kShapes[] = {
    {4, 4, 8, 8},
    {4, 2, 16, 16, 0, true},
    {6, 2, 32, 32},
    {8, 2, 64, 64},
    {14, 2, 64, 64},
    {8, 1, 64, 64, 50, true},
    {8, 2, 128, 128},
    {4, 4, 128, 128, 7},
    {8, 1, 128, 128, 100, true},
    {12, 1, 128, 128},
    {16, 1, 64, 64, 0, true},
    {20, 1, 32, 64},
    {2, 1, 96, 96},
    {3, 3, 80, 80, 33},
    {4, 2, 192, 128},
    {4, 2, 64, 128},
    {4, 1, 256, 256, 0, true},
    {12, 1, 256, 256, 70},
    {2, 2, 6, 10},
    {2, 1, 2, 2},
    {2, 1, 130, 34, 0, true},
    {2, 1, 250, 254},
};

std::string Describe(const AttentionShape& s) {
  return "heads " + std::to_string(s.heads) + "/" + std::to_string(s.kv_heads) + " dims " +
         std::to_string(s.key_dim) + " " + std::to_string(s.value_dim) + " window " +
         std::to_string(s.window) + (s.sinks ? " sinks" : "");
}

class AttentionCudaTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
  }
};

// Memory for DecodeAttention.
class Workspace {
 public:
  Workspace(const AttentionShape& shape, int rows, const DecodeSplits& splits)
      : partials_(DecodePartialFloats(rows, shape.heads, shape.value_dim, splits)),
        counters_(std::vector<unsigned int>(rows * shape.heads, 0)) {}

  DecodeWorkspace Get() { return {partials_.data(), counters_.data()}; }
  void ExpectCountersZero() const {
    for (unsigned int counter : counters_.ToHost()) ASSERT_EQ(counter, 0u);
  }

 private:
  DeviceArray<float> partials_;
  DeviceArray<unsigned int> counters_;
};

// Computes the batch, twice, both times with the same bits.
void ExpectDecode(const AttentionShape& shape, const std::vector<SequenceEnd>& sequences,
                  const DecodeSplits& splits) {
  SCOPED_TRACE(Describe(shape) + ", splits " + std::to_string(splits.splits) + " of at least " +
               std::to_string(splits.min_pages));
  AttentionBatch batch(shape, sequences, 5);
  DeviceArray<DecodeRow> rows(batch.decode_rows());
  const int n = static_cast<int>(rows.size());
  Workspace workspace(shape, n, splits);
  const int64_t columns = static_cast<int64_t>(shape.heads) * shape.value_dim;
  const bool quantize = columns % 32 == 0;
  QuantizedRowsForTest quantized(batch.rows(), quantize ? columns : 32);
  std::vector<float> results[2];
  for (std::vector<float>& result : results) {
    DeviceArray<float> out(batch.rows() * batch.out_stride());
    AttentionRows tensors = batch.Rows(out.data());
    if (quantize) tensors.quantized = quantized.rows();
    DecodeAttention(tensors, rows.data(), n, batch.pages(), batch.layer(), batch.spec(), splits,
                    workspace.Get(), nullptr, nullptr);
    ASSERT_EQ(cudaGetLastError(), cudaSuccess);
    result = out.ToHost();
  }
  const bool exact_queries =
      shape.heads / shape.kv_heads <= 8 || std::max(shape.key_dim, shape.value_dim) > 128;
  batch.ExpectAttention(results[0], exact_queries ? kWeightTolerance : kQueryTolerance);
  EXPECT_EQ(std::memcmp(results[0].data(), results[1].data(), 4 * results[0].size()), 0);
  workspace.ExpectCountersZero();
  if (quantize) {
    quantized.ExpectEqual(results[0], batch.out_stride(), 1);
    quantized.ExpectUntouched(0);
  }
}

TEST_F(AttentionCudaTest, DecodeAgreesWithTheDefinition) {
  // Single rows of sequences of many lengths, and a few rows of one sequence.
  const std::vector<SequenceEnd> sequences = {{0, 1},   {1, 1},   {15, 1},  {16, 1}, {31, 1},
                                              {32, 1},  {63, 3},  {100, 1}, {7, 2},  {127, 1},
                                              {300, 1}, {517, 1}, {64, 1}};
  for (const AttentionShape& shape : kShapes) {
    for (const DecodeSplits& splits : {DecodeSplits{1, 1}, DecodeSplits{4, 1}, DecodeSplits{7, 3},
                                       DecodeSplits{kMaxDecodeSplits, 1}}) {
      ExpectDecode(shape, sequences, splits);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(AttentionCudaTest, DecodeOfLongSequences) {
  for (const AttentionShape& shape :
       {AttentionShape{8, 2, 128, 128}, AttentionShape{14, 2, 64, 64, 0, true},
        AttentionShape{8, 2, 64, 64, 1000}, AttentionShape{2, 1, 256, 256}}) {
    for (int multiprocessors : {1, 132}) {
      ExpectDecode(shape, {{2999, 1}, {5, 1}, {2016, 1}},
                   ChooseDecodeSplits(3, shape.heads, shape.kv_heads, multiprocessors));
    }
  }
}

std::vector<float> RandomFloats(size_t n, int seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  std::vector<float> values(n);
  for (float& value : values) value = normal(random);
  return values;
}

template <class T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// Queries, keys and values of a batch's rows as RotateAndStoreKv takes them.
class Rotation {
 public:
  Rotation(AttentionBatch& batch, const AttentionShape& shape, RopeStyle style, bool normalize)
      : q_(batch.rows() * batch.q_stride()),
        k_(RandomFloats(batch.rows() * shape.kv_heads * shape.key_dim, 1)),
        v_(RandomFloats(batch.rows() * shape.kv_heads * shape.value_dim, 2)),
        norm_(RandomFloats(shape.key_dim, 3)) {
    CheckCuda(
        cudaMemcpy(q_.data(), batch.Rows(nullptr).q, 4 * q_.size(), cudaMemcpyDeviceToDevice));
    const int pairs = shape.key_dim / 2 - (normalize ? 1 : 0);
    std::vector<float2> angles;
    for (int i = 0; i < batch.rows() * pairs; ++i) {
      angles.push_back(make_float2(std::cos(0.1f * i), std::sin(0.1f * i)));
    }
    angles_ = std::make_unique<DeviceArray<float2>>(angles);
    std::vector<int32_t> positions(batch.rows(), -1), row_pages(batch.rows(), 0);
    for (const DecodeRow& row : batch.decode_rows()) {
      if (row.position < 0) continue;
      positions[row.row] = row.position;
      row_pages[row.row] = row.pages;
    }
    positions_ = std::make_unique<DeviceArray<int32_t>>(positions);
    row_pages_ = std::make_unique<DeviceArray<int32_t>>(row_pages);
    arguments_ = {.q = q_.data(),
                  .q_stride = batch.q_stride(),
                  .k = k_.data(),
                  .k_stride = shape.kv_heads * shape.key_dim,
                  .v = v_.data(),
                  .v_stride = shape.kv_heads * shape.value_dim,
                  .rows = batch.rows(),
                  .heads = shape.heads,
                  .layer = batch.layer(),
                  .normalize = normalize,
                  .q_norm = norm_.data(),
                  .k_norm = nullptr,
                  .eps = 1e-6f,
                  .style = style,
                  .pairs = pairs,
                  .angles = angles_->data(),
                  .positions = positions_->data(),
                  .row_pages = row_pages_->data(),
                  .pages = batch.pages()};
  }

  const RotateAndStore& arguments() const { return arguments_; }

 private:
  DeviceArray<float> q_, k_, v_, norm_;
  std::unique_ptr<DeviceArray<float2>> angles_;
  std::unique_ptr<DeviceArray<int32_t>> positions_, row_pages_;
  RotateAndStore arguments_;
};

// With the rotation in the same launch, results and cache have the bits of two launches.
TEST_F(AttentionCudaTest, DecodeRotatesAndStores) {
  const AttentionShape shapes[] = {
      {8, 2, 128, 128},  {14, 2, 64, 64, 50, true},
      {12, 1, 128, 128}, {20, 1, 32, 64},
      {4, 1, 256, 256},  {3, 3, 80, 80},
      {4, 2, 64, 128},   {2, 2, 6, 10},
      {2, 1, 250, 254},  {40, 1, 128, 128, 0, true},
  };
  const std::vector<SequenceEnd> sequences = {{0, 1},  {1, 1},   {31, 1},  {32, 1}, {63, 1},
                                              {64, 1}, {127, 1}, {300, 1}, {517, 1}};
  for (const AttentionShape& shape : shapes) {
    for (const DecodeSplits& splits :
         {DecodeSplits{1, 1}, DecodeSplits{7, 2}, DecodeSplits{64, 1}}) {
      SCOPED_TRACE(Describe(shape) + ", splits " + std::to_string(splits.splits));
      const bool normalize = splits.splits != 7;
      const RopeStyle style = splits.splits == 1 ? RopeStyle::kNormal : RopeStyle::kNeox;
      std::vector<float> results[2];
      std::vector<__half> keys[2], values[2];
      for (const bool at_once : {false, true}) {
        AttentionBatch batch(shape, sequences, 11);
        Rotation rotation(batch, shape, style, normalize);
        DeviceArray<DecodeRow> rows(batch.decode_rows());
        Workspace workspace(shape, static_cast<int>(rows.size()), splits);
        DeviceArray<float> out(batch.rows() * batch.out_stride());
        AttentionRows tensors = batch.Rows(out.data());
        tensors.q = rotation.arguments().q;
        if (!at_once) RotateAndStoreKv(rotation.arguments(), nullptr);
        DecodeAttention(tensors, rows.data(), static_cast<int>(rows.size()), batch.pages(),
                        batch.layer(), batch.spec(), splits, workspace.Get(),
                        at_once ? &rotation.arguments() : nullptr, nullptr);
        ASSERT_EQ(cudaGetLastError(), cudaSuccess);
        results[at_once] = out.ToHost();
        keys[at_once] = batch.keys();
        values[at_once] = batch.values();
        workspace.ExpectCountersZero();
      }
      ASSERT_TRUE(SameBits(results[0], results[1]));
      ASSERT_TRUE(SameBits(keys[0], keys[1]));
      ASSERT_TRUE(SameBits(values[0], values[1]));
    }
  }
}

TEST_F(AttentionCudaTest, DecodeCanDoWithoutFloatOutput) {
  const AttentionShape shape = {8, 2, 128, 128};
  for (int splits : {1, 8}) {
    AttentionBatch batch(shape, {{700, 1}, {3, 1}}, 6);
    DeviceArray<DecodeRow> rows(batch.decode_rows());
    const int n = static_cast<int>(rows.size());
    Workspace workspace(shape, n, {splits, 1});
    DeviceArray<float> out(batch.rows() * batch.out_stride());
    QuantizedRowsForTest quantized(batch.rows(), 8 * 128);
    for (bool want_float : {true, false}) {
      AttentionRows tensors = batch.Rows(want_float ? out.data() : nullptr);
      if (!want_float) tensors.quantized = quantized.rows();
      DecodeAttention(tensors, rows.data(), n, batch.pages(), batch.layer(), batch.spec(),
                      {splits, 1}, workspace.Get(), nullptr, nullptr);
      ASSERT_EQ(cudaGetLastError(), cudaSuccess);
    }
    quantized.ExpectEqual(out.ToHost(), batch.out_stride(), 1);
  }
}

// A captured launch follows positions that change in device memory.
TEST_F(AttentionCudaTest, DecodeReplaysInAGraphWhilePositionsGrow) {
  const AttentionShape shape = {8, 2, 64, 64};
  const DecodeSplits splits = ChooseDecodeSplits(1, shape.heads, shape.kv_heads, 132);
  Workspace workspace(shape, 1, splits);
  AttentionBatch batch(shape, {{0, 700}}, 7);
  DeviceArray<float> out(batch.rows() * batch.out_stride());
  DeviceArray<DecodeRow> row(1);
  cudaStream_t stream;
  CheckCuda(cudaStreamCreate(&stream));
  CheckCuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  DecodeAttention(batch.Rows(out.data()), row.data(), 1, batch.pages(), batch.layer(), batch.spec(),
                  splits, workspace.Get(), nullptr, stream);
  cudaGraph_t graph;
  CheckCuda(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t executable;
  CheckCuda(cudaGraphInstantiate(&executable, graph, 0));
  // The batch expects all its rows to be computed: one replay each.
  for (const DecodeRow& wanted : batch.decode_rows()) {
    CheckCuda(cudaMemcpy(row.data(), &wanted, sizeof(wanted), cudaMemcpyHostToDevice));
    CheckCuda(cudaGraphLaunch(executable, stream));
    CheckCuda(cudaStreamSynchronize(stream));
  }
  batch.ExpectAttention(out.ToHost(), kWeightTolerance);
  workspace.ExpectCountersZero();
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

void ExpectPrefill(const AttentionShape& shape, const std::vector<SequenceEnd>& sequences,
                   int tile_rows) {
  SCOPED_TRACE(Describe(shape) + ", tiles of " + std::to_string(tile_rows));
  AttentionBatch batch(shape, sequences, 8);
  DeviceArray<PrefillTile> tiles(batch.Tiles(tile_rows));
  DeviceArray<float> out(batch.rows() * batch.out_stride());
  const int64_t columns = static_cast<int64_t>(shape.heads) * shape.value_dim;
  const bool quantize = columns % 32 == 0;
  QuantizedRowsForTest quantized(batch.rows(), quantize ? columns : 32);
  AttentionRows tensors = batch.Rows(out.data());
  if (quantize) tensors.quantized = quantized.rows();
  PrefillAttention(tensors, tiles.data(), static_cast<int>(tiles.size()), batch.pages(),
                   batch.layer(), batch.spec(), nullptr);
  ASSERT_EQ(cudaGetLastError(), cudaSuccess);
  const std::vector<float> result = out.ToHost();
  batch.ExpectAttention(result, kQueryTolerance);
  if (quantize) {
    quantized.ExpectEqual(result, batch.out_stride(), 1);
    quantized.ExpectUntouched(0);
  }
}

TEST_F(AttentionCudaTest, PrefillAgreesWithTheDefinition) {
  // Whole prompts, and pieces in the middle of one, in tiles that are full and not.
  const std::vector<SequenceEnd> sequences = {{0, 1}, {0, 65}, {40, 33}, {200, 17}, {97, 2}};
  for (const AttentionShape& shape : kShapes) {
    for (int tile_rows : {kPrefillTileRows, 20}) {
      ExpectPrefill(shape, sequences, tile_rows);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(AttentionCudaTest, PrefillOfLongSequences) {
  for (const AttentionShape& shape :
       {AttentionShape{4, 2, 128, 128}, AttentionShape{2, 1, 64, 64, 300, true},
        AttentionShape{1, 1, 256, 256, 0, true}}) {
    ExpectPrefill(shape, {{0, 300}, {1500, 130}}, kPrefillTileRows);
  }
}

// Blocks of two heads give the same bits as blocks of one.
TEST_F(AttentionCudaTest, PrefillWithTwoHeadsABlock) {
  for (int dim : {64, 128, 96}) {
    const AttentionShape shape = {4, 2, dim, dim, 0, true};
    AttentionBatch batch(shape, {{0, 130}, {77, 70}}, 9);
    DeviceArray<PrefillTile> tiles(batch.Tiles(kPrefillTileRows));
    const int n = static_cast<int>(tiles.size());
    std::vector<float> results[2];
    for (int heads : {1, 2}) {
      DeviceArray<float> out(batch.rows() * batch.out_stride());
      const PrefillArguments arguments = {
          batch.Rows(out.data()), tiles.data(), batch.pages(), batch.layer(),
          batch.spec(),           false,        heads};
      if (dim == 64) {
        LaunchPrefillFor<64>(arguments, n, nullptr);
      } else {
        LaunchPrefillFor<128>(arguments, n, nullptr);
      }
      ASSERT_EQ(cudaGetLastError(), cudaSuccess);
      results[heads - 1] = out.ToHost();
    }
    batch.ExpectAttention(results[1], kQueryTolerance);
    EXPECT_EQ(std::memcmp(results[0].data(), results[1].data(), 4 * results[0].size()), 0);
  }
}

// Scores of hundreds: the softmax neither overflows nor loses what counts, and queries are not
// rounded to float16 by decoding, which would show here.
TEST_F(AttentionCudaTest, LargeScores) {
  for (int dim : {64, 128, 256}) {
    const AttentionShape shape = {2, 1, dim, dim, 0, true, 100};
    AttentionBatch batch(shape, {{0, 150}}, 10);
    DeviceArray<float> decoded(batch.rows() * batch.out_stride());
    DeviceArray<float> prefilled(batch.rows() * batch.out_stride());
    DeviceArray<DecodeRow> rows(batch.decode_rows());
    const int n = static_cast<int>(rows.size());
    Workspace workspace(shape, n, {4, 1});
    DecodeAttention(batch.Rows(decoded.data()), rows.data(), n, batch.pages(), batch.layer(),
                    batch.spec(), {4, 1}, workspace.Get(), nullptr, nullptr);
    DeviceArray<PrefillTile> tiles(batch.Tiles(kPrefillTileRows));
    PrefillAttention(batch.Rows(prefilled.data()), tiles.data(), static_cast<int>(tiles.size()),
                     batch.pages(), batch.layer(), batch.spec(), nullptr);
    ASSERT_EQ(cudaGetLastError(), cudaSuccess);
    batch.ExpectAttention(decoded.ToHost(), 2e-3);
    batch.ExpectAttention(prefilled.ToHost(), 0.3);
  }
}

}  // namespace
}  // namespace gguf_offload::cuda

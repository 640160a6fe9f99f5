#include "kernels/moe/expert_product_cuda.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>
#include <set>
#include <vector>

#include "kernels/matmul/device_matrix_for_test.h"
#include "kernels/matmul/half_rows_cuda.h"
#include "kernels/matmul/quantize_rows_cuda.h"
#include "kernels/quant/device_array_for_test.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload::cuda {
namespace {

using quant::TensorType;

class ExpertProductTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
  }
};

// Different experts for each row, -1 for those of row `without`.
std::vector<int32_t> RandomChoice(int rows, int used, int experts, int without, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> all(experts), chosen;
  for (int i = 0; i < experts; ++i) all[i] = i;
  for (int row = 0; row < rows; ++row) {
    std::shuffle(all.begin(), all.end(), random);
    for (int i = 0; i < used; ++i) chosen.push_back(row == without ? -1 : all[i]);
  }
  return chosen;
}

// An order and its memory.
struct Order {
  Order(const std::vector<int32_t>& experts, int rows, int used, int count, int tile_pairs)
      : device_experts(experts),
        pairs(experts.size()),
        tiles(MostExpertTiles(static_cast<int>(experts.size()), count, tile_pairs)),
        chosen{device_experts.data(), nullptr, rows, used},
        order{pairs.data(), tiles.data()} {
    OrderByExpert(chosen, count, tile_pairs, order, nullptr);
    CheckCuda(cudaGetLastError());
  }
  int tile_count() const { return static_cast<int>(tiles.size()); }

  DeviceArray<int32_t> device_experts, pairs;
  DeviceArray<ExpertTile> tiles;
  ChosenExperts chosen;
  ExpertOrder order;
};

TEST_F(ExpertProductTest, OrderHasEveryPairOnceAtItsExpert) {
  for (const auto& [rows, used, experts] : std::vector<std::tuple<int, int, int>>{{1, 8, 128},
                                                                                  {2, 1, 1},
                                                                                  {40, 3, 7},
                                                                                  {300, 8, 256},
                                                                                  {37, 10, 3000},
                                                                                  {600, 4, 4},
                                                                                  {5, 2, 1025}}) {
    for (int tile_pairs : {8, 64}) {
      SCOPED_TRACE(rows);
      const std::vector<int32_t> chosen = RandomChoice(rows, used, experts, rows / 2, rows);
      const Order order(chosen, rows, used, experts, tile_pairs);
      const std::vector<int32_t> pairs = order.pairs.ToHost();
      std::set<int32_t> seen;
      int last_expert = -1, end = 0;
      bool unused = false;
      for (const ExpertTile& tile : order.tiles.ToHost()) {
        unused |= tile.count == 0;
        if (unused) {
          EXPECT_EQ(tile.count, 0);
          continue;
        }
        EXPECT_LE(tile.count, tile_pairs);
        EXPECT_GE(tile.expert, last_expert);
        EXPECT_EQ(tile.first, end);
        last_expert = tile.expert;
        end = tile.first + tile.count;
        for (int i = tile.first; i < end; ++i) {
          EXPECT_TRUE(seen.insert(pairs[i]).second);
          EXPECT_EQ(chosen[pairs[i]], tile.expert);
        }
      }
      EXPECT_EQ(seen.size(), chosen.size() - used * (rows > 1 || rows / 2 == 0));
    }
  }
}

// Both matrices of every expert, with biases, in 8 bits or in half precision, against exact
// products.
struct Case {
  TensorType type;
  int64_t rows, cols;
  int x_rows, used, experts;
};

class Products {
 public:
  Products(const Case& c, bool int8, int pairs_per_row)
      : c_(c),
        int8_(int8),
        pairs_per_row_(pairs_per_row),
        choice_(RandomChoice(c.x_rows, c.used, c.experts, c.x_rows > 2 ? 1 : -1, 7)),
        first_(MakeMatrix(c.type, c.experts * c.rows, c.cols, 1, 8)),
        second_(MakeMatrix(c.type, c.experts * c.rows, c.cols, 2, 0)),
        host_bias_(MakeActivations(1, c.experts * c.rows, c.experts * c.rows, 4)),
        bias_(host_bias_),
        n_(pairs_per_row == 1 ? c.x_rows * c.used : c.x_rows),
        x_stride_(c.cols + 4),
        host_x_(MakeActivations(n_, c.cols, x_stride_, 3)),
        x_(host_x_) {}

  void Check(bool ordered) {
    const int64_t stride = c_.rows + 3;
    const int pairs = c_.x_rows * c_.used;
    DeviceArray<float> y0(pairs * stride), y1(pairs * stride);
    ExpertProducts products{
        .matrices = {{c_.type, c_.rows, c_.cols, bias_.data(), first_.blocks->data()},
                     {c_.type, c_.rows, c_.cols, nullptr, second_.blocks->data()}},
        .y = {y0.data(), y1.data()},
        .y_stride = stride,
        .count = 2,
        .pairs_per_row = pairs_per_row_};
    Order order(choice_, c_.x_rows, c_.used, c_.experts,
                int8_ ? kExpertMatVecPairs : kExpertMatMulPairs);
    Run(products, order, ordered);
    ASSERT_EQ(cudaGetLastError(), cudaSuccess);
    Compare(first_, host_bias_.data(), y0.ToHost(), stride);
    Compare(second_, nullptr, y1.ToHost(), stride);
  }

 private:
  void Run(const ExpertProducts& products, const Order& order, bool ordered) {
    if (int8_) {
      const HostQuantizedRows host = QuantizeOnHost(host_x_, n_, c_.cols, x_stride_);
      meaning_ = host.values;
      meaning_stride_ = c_.cols;
      DeviceArray<int8_t> q(host.q.size());
      DeviceArray<float2> scale(host.scale.size());
      const QuantizedRows rows{q.data(), scale.data(), c_.cols};
      QuantizeRows(x_.data(), x_stride_, n_, rows, nullptr);
      MultiplyExpertsInt8(products, rows, order.chosen, ordered ? order.order : ExpertOrder(),
                          ordered ? order.tile_count() : order.chosen.pairs(), nullptr);
      CheckCuda(cudaDeviceSynchronize());
      return;
    }
    meaning_ = host_x_;
    meaning_stride_ = x_stride_;
    DeviceArray<__half> half(n_ * PadHalfColumns(c_.cols));
    DeviceArray<float> scale(n_);
    RowsToHalf(x_.data(), x_stride_, n_, c_.cols, half.data(), scale.data(), nullptr);
    MultiplyExpertsHalf(products, half.data(), scale.data(), order.order, order.tile_count(),
                        nullptr);
    CheckCuda(cudaDeviceSynchronize());
  }

  void Compare(const DeviceMatrix& matrix, const float* bias, const std::vector<float>& y,
               int64_t stride) {
    for (int pair = 0; pair < c_.x_rows * c_.used; ++pair) {
      const int expert = choice_[pair];
      for (int64_t r = 0; r < stride; ++r) {
        const float value = y[pair * stride + r];
        if (expert < 0 || r >= c_.rows) {
          ASSERT_EQ(std::bit_cast<uint32_t>(value), 0xffffffffu) << pair << " " << r;
          continue;
        }
        const int64_t row = expert * c_.rows + r;
        const ExactProduct exact =
            Multiply(&matrix.values[row * c_.cols],
                     &meaning_[pair / pairs_per_row_ * meaning_stride_], c_.cols);
        const double expected = exact.product + (bias == nullptr ? 0 : bias[row]);
        // Both factors are rounded to float16 in half precision, relative error 2^-11 each.
        const double tolerance = int8_ ? 5e-6 * exact.magnitude : 1.1e-3 * exact.norms;
        // Negated, so that NaN fails.
        if (!(std::abs(value - expected) <= tolerance + 1e-6 * std::abs(expected) + 1e-30)) {
          FAIL() << matrix.name << " pair " << pair << " row " << r << " is " << value << ", not "
                 << expected;
        }
      }
    }
  }

  const Case c_;
  const bool int8_;
  const int pairs_per_row_;
  const std::vector<int32_t> choice_;
  const DeviceMatrix first_, second_;
  const std::vector<float> host_bias_;
  DeviceArray<float> bias_;
  const int n_;
  const int64_t x_stride_;
  const std::vector<float> host_x_;
  DeviceArray<float> x_;
  std::vector<float> meaning_;  // what the multiplied x means
  int64_t meaning_stride_ = 0;
};

TEST_F(ExpertProductTest, Int8ProductsAreExactUpToRounding) {
  int formats = 0;
  for (TensorType type : TestedTypes()) {
    if (!CanMultiplyExpertsInt8(type)) continue;
    ++formats;
    SCOPED_TRACE(quant::FormatOf(type).name);
    Products(Case{type, 5, 256, 1, 3, 4}, true, 3).Check(false);
    Products(Case{type, 37, 512, 11, 3, 5}, true, 3).Check(true);
    if (HasFatalFailure()) return;
  }
  EXPECT_EQ(formats, 25);
  // Columns that warps share, tiles of more than one, products with the results of others.
  Products(Case{TensorType::kQ4_K, 9, 4096 + 256, 3, 2, 3}, true, 1).Check(false);
  Products(Case{TensorType::kQ6_K, 66, 2048, 24, 2, 2}, true, 1).Check(true);
  Products(Case{TensorType::kMXFP4, 20, 96, 24, 2, 3}, true, 2).Check(true);
}

TEST_F(ExpertProductTest, HalfProductsAreExactUpToRounding) {
  int formats = 0;
  for (TensorType type : TestedTypes()) {
    if (!CanMultiplyExpertsHalf(type)) continue;
    ++formats;
    SCOPED_TRACE(quant::FormatOf(type).name);
    Products(Case{type, 37, 256, 11, 3, 5}, false, 3).Check(true);
    if (HasFatalFailure()) return;
  }
  EXPECT_EQ(formats, 28);
  // Several blocks of rows, full and partly filled tiles, an odd number of groups.
  Products(Case{TensorType::kQ8_0, 200, 96, 150, 2, 3}, false, 2).Check(true);
  Products(Case{TensorType::kMXFP4, 130, 32, 70, 1, 1}, false, 1).Check(true);
  Products(Case{TensorType::kF16, 33, 36, 50, 2, 3}, false, 2).Check(true);
}

// In slots, wherever they are, an expert is what it is.
TEST_F(ExpertProductTest, ExpertsInSlotsGiveTheSameBits) {
  constexpr int kExperts = 5, kRows = 7, kCols = 64, kUsed = 2;
  // 17 bytes a block, so that experts begin at odd addresses.
  const TensorType type = TensorType::kMXFP4;
  const DeviceMatrix matrix = MakeMatrix(type, kExperts * kRows, kCols, 1, 8);
  ExpertMatrices resident{type, kRows, kCols, nullptr, matrix.blocks->data()};
  const std::vector<uint8_t> blocks = matrix.blocks->ToHost();
  const int64_t bytes = resident.matrix_bytes();
  const int64_t stride = (bytes + 16 + 15) / 16 * 16;
  constexpr int kPhase = 9;
  std::vector<uint8_t> slots(stride * 3, 0xaa);
  const std::vector<int32_t> slot_of = {-1, 2, -1, 0, 1};
  for (int expert = 0; expert < kExperts; ++expert) {
    if (slot_of[expert] < 0) continue;
    std::copy_n(blocks.begin() + expert * bytes, bytes,
                slots.begin() + slot_of[expert] * stride + ((kPhase + expert * bytes) & 15));
  }
  DeviceArray<uint8_t> device_slots(slots);
  DeviceArray<int32_t> device_slot_of(slot_of);
  ExpertMatrices cached = resident;
  cached.data = device_slots.data();
  cached.slots = device_slot_of.data();
  cached.slot_stride = stride;
  cached.file_phase = kPhase;

  const std::vector<int32_t> choice = {1, 3, 4, 1, 3, 4};
  constexpr int kXRows = 3;
  DeviceArray<float> x(MakeActivations(kXRows, kCols, kCols, 3));
  DeviceArray<int8_t> q(kXRows * kCols);
  DeviceArray<float2> scale(kXRows * kCols / 32);
  const QuantizedRows rows{q.data(), scale.data(), kCols};
  QuantizeRows(x.data(), kCols, kXRows, rows, nullptr);
  DeviceArray<__half> half(kXRows * kCols);
  DeviceArray<float> half_scale(kXRows);
  RowsToHalf(x.data(), kCols, kXRows, kCols, half.data(), half_scale.data(), nullptr);
  for (int mode = 0; mode < 3; ++mode) {
    std::vector<float> results[2];
    for (const bool in_slots : {false, true}) {
      Order order(choice, kXRows, kUsed, kExperts, kExpertMatVecPairs);
      DeviceArray<float> y(choice.size() * kRows);
      const ExpertProducts products{.matrices = {in_slots ? cached : resident},
                                    .y = {y.data()},
                                    .y_stride = kRows,
                                    .pairs_per_row = kUsed};
      if (mode == 2) {
        MultiplyExpertsHalf(products, half.data(), half_scale.data(), order.order,
                            order.tile_count(), nullptr);
      } else {
        MultiplyExpertsInt8(products, rows, order.chosen, mode == 0 ? ExpertOrder() : order.order,
                            mode == 0 ? order.chosen.pairs() : order.tile_count(), nullptr);
      }
      ASSERT_EQ(cudaGetLastError(), cudaSuccess);
      results[in_slots] = y.ToHost();
    }
    EXPECT_TRUE(results[0] == results[1]) << mode;
  }
}

}  // namespace
}  // namespace gguf_offload::cuda

#include "computed/placement/placement.h"

#include <gtest/gtest.h>

namespace gguf_offload {
namespace {

ModelTensor Matrix(uint64_t bytes) { return {.rows = 2, .bytes = bytes}; }

// `layers` layers of 1000 bytes, an embedding and a head of 500 each, a vector of 10 in each layer.
ModelTensors Model(int layers) {
  ModelTensors tensors;
  tensors.groups.push_back({Matrix(500)});
  for (int i = 0; i < layers; ++i) {
    tensors.groups.push_back({ModelTensor{.columns = 10, .bytes = 20}, Matrix(600), Matrix(400)});
  }
  tensors.groups.push_back({Matrix(500)});
  return tensors;
}

TEST(PlacementTest, SharedPagesNeedNoBudget) {
  const auto placement = PlanPlacement(Model(8), {.shared_pages = true, .memory_budget = 0});
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_EQ(placement->shared_bytes, 9000u);
  EXPECT_EQ(placement->resident_bytes, 8u * 40);  // the vectors, as float32
  EXPECT_EQ(placement->streamed_bytes, 0u);
  EXPECT_EQ(placement->places[1][0], v1::PLACE_RESIDENT);
  EXPECT_EQ(placement->places[1][1], v1::PLACE_SHARED_PAGES);
}

TEST(PlacementTest, KeepsAsMuchAsTheBudgetHolds) {
  const uint64_t outer = 1000 + 8 * 40;
  // Everything; then seven slots' worth: three for the ring, four layers resident; then the ring
  // only.
  const struct {
    uint64_t budget;
    uint64_t streamed;
  } cases[] = {{outer + 8000, 0},
               {outer + 7999, 4000},
               {outer + 7000, 4000},
               {outer + 6999, 5000},
               {outer + 3000, 8000}};
  for (const auto& c : cases) {
    SCOPED_TRACE(c.budget);
    const auto placement = PlanPlacement(Model(8), {.memory_budget = c.budget});
    ASSERT_TRUE(placement.ok()) << placement.status();
    EXPECT_EQ(placement->streamed_bytes, c.streamed);
    EXPECT_EQ(placement->resident_bytes + placement->streamed_bytes, 9000u + 8 * 40);
    EXPECT_LE(placement->resident_bytes + placement->slot_bytes * placement->ring_slots, c.budget);
  }
}

TEST(PlacementTest, SpreadsStreamedLayersEvenly) {
  const auto placement = PlanPlacement(Model(8), {.memory_budget = 1320 + 7000});
  ASSERT_TRUE(placement.ok()) << placement.status();
  const std::vector<bool> expected = {false, false, true,  false, true,
                                      false, true,  false, true,  false};
  EXPECT_EQ(placement->streamed_groups, expected);
}

TEST(PlacementTest, SaysWhichBudgetWouldDo) {
  const auto placement = PlanPlacement(Model(8), {.memory_budget = 1320 + 2999});
  EXPECT_EQ(placement.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(std::string(placement.status().message()).find("4320 bytes"), std::string::npos)
      << placement.status();
}

}  // namespace
}  // namespace gguf_offload

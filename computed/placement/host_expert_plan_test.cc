#include "computed/placement/host_expert_plan.h"

#include <gtest/gtest.h>

#include <climits>
#include <string>

#include "absl/strings/str_cat.h"

namespace gguf_offload {
namespace {

constexpr int kExperts = 16, kUsed = 4;

// Six layers, all but the first with experts; those of every second are twice as large.
ModelTensors Tensors() {
  ModelTensors tensors;
  tensors.groups.resize(8);
  uint64_t next = 1056;
  for (int layer = 1; layer < 6; ++layer) {
    for (const TensorId id : {kExpertGate, kExpertUp, kExpertDown}) {
      const uint64_t bytes = kExperts * (layer % 2 == 0 ? 9000 : 4500);
      tensors.groups[tensors.layer_group(layer)].push_back({.id = id,
                                                            .type = quant::TensorType::kQ8_0,
                                                            .columns = 32,
                                                            .rows = 32,
                                                            .matrices = kExperts,
                                                            .offset = next,
                                                            .bytes = bytes});
      next += bytes;
    }
  }
  return tensors;
}

TEST(HostExpertPlanTest, HoldsTheSamePartOfEveryClassWithinTheMemory) {
  const ModelTensors tensors = Tensors();
  const uint64_t least = LeastHostExpertBytes(tensors, kUsed);
  uint64_t all = 0;
  for (uint64_t bytes = least; bytes < (4 << 20); bytes += 12345) {
    SCOPED_TRACE(bytes);
    const auto plan = PlanHostExperts(tensors, kExperts, kUsed, bytes);
    ASSERT_TRUE(plan.ok()) << plan.status();
    ASSERT_EQ(plan->classes.size(), 2u);
    EXPECT_LE(plan->bytes, bytes);
    EXPECT_EQ(plan->EntriesOf(0), 0);
    // Three layers of the small ones, two of the large ones.
    EXPECT_EQ(plan->EntriesOf(1), plan->EntriesOf(5));
    EXPECT_GE(plan->EntriesOf(1), kUsed);
    EXPECT_LE(plan->EntriesOf(1), 3 * kExperts);
    EXPECT_GE(plan->EntriesOf(2), kUsed);
    EXPECT_LE(plan->EntriesOf(2), 2 * kExperts);
    EXPECT_NEAR((plan->EntriesOf(1) - kUsed) / (3.0 * kExperts - kUsed),
                (plan->EntriesOf(2) - kUsed) / (2.0 * kExperts - kUsed), 0.05);
    EXPECT_EQ(plan->MostTokens(2),
              plan->EntriesOf(2) >= kExperts ? INT_MAX : plan->EntriesOf(2) / kUsed);
    all = plan->bytes;
  }
  // There are no more entries than experts.
  EXPECT_EQ(all, kExperts * (3 * LayOutExpert(tensors.groups[2]).slot_bytes +
                             2 * LayOutExpert(tensors.groups[3]).slot_bytes));
}

TEST(HostExpertPlanTest, TooLittleMemorySaysWhatWouldDo) {
  const ModelTensors tensors = Tensors();
  const uint64_t least = LeastHostExpertBytes(tensors, kUsed);
  const auto plan = PlanHostExperts(tensors, kExperts, kUsed, least - 1);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(plan.status().message().find(absl::StrCat("the smallest is ", least, " bytes")),
            std::string::npos)
      << plan.status();
}

TEST(HostExpertPlanTest, StepsThatWantMoreThanThereIsRoomForStreamBanks) {
  const auto small = PlanHostExperts(Tensors(), kExperts, kUsed, 1 << 18);
  const auto large = PlanHostExperts(Tensors(), kExperts, kUsed, 4 << 20);
  ASSERT_TRUE(small.ok() && large.ok());
  EXPECT_TRUE(small->TakesStepOf(kExperts / kUsed));
  EXPECT_FALSE(small->TakesStepOf(kExperts / kUsed + 1));
  EXPECT_TRUE(large->TakesStepOf(64));
  EXPECT_FALSE(large->TakesStepOf(65));
}

TEST(HostExpertPlanTest, AModelWithoutExpertsNeedsNone) {
  ModelTensors tensors;
  tensors.groups.resize(5);
  const auto plan = PlanHostExperts(tensors, 0, 0, 0);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_TRUE(plan->empty());
  EXPECT_EQ(plan->bytes, 0u);
  EXPECT_FALSE(plan->TakesStepOf(1));
}

}  // namespace
}  // namespace gguf_offload

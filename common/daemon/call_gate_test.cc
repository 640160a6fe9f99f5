#include "common/daemon/call_gate.h"

#include <gtest/gtest.h>

#include <thread>

namespace gguf_offload {
namespace {

TEST(CallGate, CountsAndRefusesWhileDraining) {
  CallGate gate;
  auto first = gate.Enter();
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(gate.running(), 1);
  int idle = 0;
  gate.StartDraining([&idle] { ++idle; });
  EXPECT_TRUE(gate.draining());
  EXPECT_EQ(idle, 0);
  EXPECT_TRUE(absl::IsUnavailable(gate.Enter().status()));
  EXPECT_FALSE(gate.WaitUntilIdle(absl::InfinitePast()));
  {
    CallGate::Pass moved = *std::move(first);
    EXPECT_EQ(gate.running(), 1);
  }
  EXPECT_EQ(gate.running(), 0);
  EXPECT_EQ(idle, 1);
  EXPECT_TRUE(gate.WaitUntilIdle(absl::InfinitePast()));
}

TEST(CallGate, IdleAtOnceWithoutCalls) {
  CallGate gate;
  int idle = 0;
  gate.StartDraining([&idle] { ++idle; });
  gate.StartDraining([&idle] { ++idle; });
  EXPECT_EQ(idle, 1);
}

TEST(CallGate, AnotherThreadEndsTheWait) {
  CallGate gate;
  CallGate::Pass pass = *gate.Enter();
  std::thread other([pass = std::move(pass)]() mutable { pass = CallGate::Pass(); });
  EXPECT_TRUE(gate.WaitUntilIdle(absl::InfiniteFuture()));
  other.join();
}

}  // namespace
}  // namespace gguf_offload

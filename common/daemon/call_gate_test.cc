#include "common/daemon/call_gate.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "common/grpc_status/status.h"

namespace gguf_offload {
namespace {

TEST(CallGate, CountsAndRefusesWhileDraining) {
  CallGate gate;
  auto first = gate.Enter("");
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(gate.running(), 1);
  int idle = 0;
  gate.StartDraining([&idle] { ++idle; });
  EXPECT_TRUE(gate.draining());
  EXPECT_EQ(idle, 0);
  EXPECT_TRUE(absl::IsUnavailable(gate.Enter("").status()));
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

TEST(CallGate, AClientHasNoMoreThanItsShare) {
  CallGate gate(/*calls_per_client=*/2);
  auto first = gate.Enter("a");
  auto second = gate.Enter("a");
  ASSERT_TRUE(first.ok() && second.ok());
  const absl::Status refused = gate.Enter("a").status();
  EXPECT_TRUE(absl::IsResourceExhausted(refused));
  EXPECT_NE(ToGrpc(refused).error_details().find("google.rpc.RetryInfo"), std::string::npos);
  // Others are not concerned, nor are those without a name.
  EXPECT_TRUE(gate.Enter("b").ok());
  std::vector<CallGate::Pass> unnamed;
  for (int i = 0; i < 5; ++i) unnamed.push_back(*gate.Enter(""));
  *second = CallGate::Pass();
  EXPECT_TRUE(gate.Enter("a").ok());
}

TEST(CallGate, AnotherThreadEndsTheWait) {
  CallGate gate;
  CallGate::Pass pass = *gate.Enter("");
  std::thread other([pass = std::move(pass)]() mutable { pass = CallGate::Pass(); });
  EXPECT_TRUE(gate.WaitUntilIdle(absl::InfiniteFuture()));
  other.join();
}

}  // namespace
}  // namespace gguf_offload

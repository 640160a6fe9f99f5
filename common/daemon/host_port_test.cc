#include "common/daemon/host_port.h"

#include <gtest/gtest.h>

namespace gguf_offload {
namespace {

TEST(HostPort, Accepts) {
  const auto name = ParseHostPort("localhost:50051");
  ASSERT_TRUE(name.ok());
  EXPECT_EQ(name->host, "localhost");
  EXPECT_EQ(name->port, 50051);
  EXPECT_EQ(name->ToString(), "localhost:50051");

  const auto ipv6 = ParseHostPort("[::1]:0");
  ASSERT_TRUE(ipv6.ok());
  EXPECT_EQ(ipv6->host, "::1");
  EXPECT_EQ(ipv6->port, 0);
  EXPECT_EQ(ipv6->ToString(), "[::1]:0");
}

TEST(HostPort, Refuses) {
  for (const char* text : {"", "50051", ":50051", "host:", "host:x", "host:65536", "host:-1",
                           "host:1 ", "::1:5", "[]:5", "ho st:5", "host:1:2", "unix:/tmp/x"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseHostPort(text).status())) << text;
  }
}

TEST(HostPort, KnowsWhatOnlyThisMachineReaches) {
  for (const char* local : {"localhost", "127.0.0.1", "127.255.0.3", "::1"}) {
    EXPECT_TRUE(IsLoopback({local, 1})) << local;
  }
  for (const char* open :
       {"0.0.0.0", "::", "10.0.0.1", "localhost.example", "128.0.0.1", "127.1"}) {
    EXPECT_FALSE(IsLoopback({open, 1})) << open;
  }
}

}  // namespace
}  // namespace gguf_offload

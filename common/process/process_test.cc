#include "common/process/process.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace gguf_offload {
namespace {

TEST(ProcessTest, TouchedMemoryIsPrivate) {
  v1::GetMemoryResponse before, after;
  FillProcessMemory(before);
  std::vector<char> memory(64 << 20);
  std::memset(memory.data(), 1, memory.size());
  FillProcessMemory(after);
  EXPECT_GE(after.private_bytes(), before.private_bytes() + (60 << 20));
  EXPECT_GE(after.resident_bytes(), after.private_bytes());
  EXPECT_EQ(memory[memory.size() / 2], 1);
}

TEST(ProcessTest, BuildInfoIsComplete) {
  v1::GetBuildInfoResponse info;
  FillBuildInfo("weightd", info);
  EXPECT_EQ(info.program(), "weightd");
  EXPECT_FALSE(info.version().empty());
  EXPECT_FALSE(info.compiler().empty());
  EXPECT_FALSE(info.grpc_version().empty());
}

}  // namespace
}  // namespace gguf_offload

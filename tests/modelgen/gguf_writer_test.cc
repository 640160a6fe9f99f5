#include "tests/modelgen/gguf_writer.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <mutex>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace gguf_offload {
namespace {

using quant::TensorType;

std::string TempPath(const std::string& name) {
  return std::string(std::getenv("TEST_TMPDIR")) + "/" + name;
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

bool Exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

// Every byte of block b of tensor t is t * 16 + b % 16.
void FillWithPlace(size_t tensor, uint64_t begin, uint64_t end, size_t block_bytes, uint8_t* out) {
  for (uint64_t block = begin; block < end; ++block, out += block_bytes) {
    std::memset(out, static_cast<int>(tensor * 16 + block % 16), block_bytes);
  }
}

TEST(GgufWriterTest, EveryMetadataTypeHasItsEncoding) {
  GgufWriter writer;
  writer.AddMetadata("a", uint8_t{0x11});
  writer.AddMetadata("b", int8_t{-1});
  writer.AddMetadata("c", uint16_t{0x2233});
  writer.AddMetadata("d", int16_t{-2});
  writer.AddMetadata("e", uint32_t{0x44556677});
  writer.AddMetadata("f", int32_t{-3});
  writer.AddMetadata("g", 1.0f);
  writer.AddMetadata("h", true);
  writer.AddMetadata("i", std::string("xyz"));
  writer.AddMetadata("j", std::vector<uint16_t>{1, 2});
  writer.AddMetadata("k", uint64_t{1} << 40);
  writer.AddMetadata("l", int64_t{-4});
  writer.AddMetadata("m", -2.0);
  writer.AddMetadata("n", std::vector<std::string>{"p", ""});
  writer.AddMetadata("o", std::vector<bool>{true, false});
  writer.AddMetadata("p", std::vector<std::vector<uint8_t>>{{7}, {}});
  const absl::StatusOr<GgufLayout> layout = writer.Layout();
  ASSERT_TRUE(layout.ok()) << layout.status();

  // By hand from the specification: key (length, text), type, value.
  const auto u32 = [](uint32_t value) {
    std::string bytes(4, '\0');
    for (int i = 0; i < 4; ++i) bytes[i] = static_cast<char>(value >> (8 * i));
    return bytes;
  };
  const auto u64 = [&](uint64_t value) {
    return u32(static_cast<uint32_t>(value)) + u32(static_cast<uint32_t>(value >> 32));
  };
  const auto entry = [&](char key, uint32_t type) { return u64(1) + key + u32(type); };
  const std::string minus(8, '\xff');
  std::string expected = "GGUF" + u32(3) + u64(0) + u64(16);
  expected += entry('a', 0) + "\x11";
  expected += entry('b', 1) + "\xff";
  expected += entry('c', 2) + "\x33\x22";
  expected += entry('d', 3) + "\xfe\xff";
  expected += entry('e', 4) + "\x77\x66\x55\x44";
  expected += entry('f', 5) + "\xfd\xff\xff\xff";
  expected += entry('g', 6) + u32(0x3f800000);
  expected += entry('h', 7) + "\x01";
  expected += entry('i', 8) + u64(3) + "xyz";
  expected += entry('j', 9) + u32(2) + u64(2) + std::string("\x01\0\x02\0", 4);
  expected += entry('k', 10) + u64(uint64_t{1} << 40);
  expected += entry('l', 11) + "\xfc" + minus.substr(1);
  expected += entry('m', 12) + u64(0xc000000000000000);
  expected += entry('n', 9) + u32(8) + u64(2) + u64(1) + "p" + u64(0);
  expected += entry('o', 9) + u32(7) + u64(2) + std::string("\x01\0", 2);
  expected += entry('p', 9) + u32(9) + u64(2) + u32(0) + u64(1) + "\x07" + u32(0) + u64(0);
  expected.resize((expected.size() + 31) / 32 * 32, '\0');
  ASSERT_EQ(layout->shards.size(), 1u);
  EXPECT_EQ(layout->shards[0].header, expected);
}

TEST(GgufWriterTest, TensorsAreAlignedAndFilledOnce) {
  for (const uint32_t alignment : {32u, 64u, 4096u}) {
    GgufWriter writer({.alignment = alignment});
    ASSERT_TRUE(writer.AddTensor("odd", {3}, TensorType::kF32).ok());
    ASSERT_TRUE(writer.AddTensor("blocks", {64, 5, 2}, TensorType::kQ4_0).ok());
    ASSERT_TRUE(writer.AddTensor("large", {256, 40000}, TensorType::kQ6_K).ok());
    ASSERT_TRUE(writer.AddTensor("empty", {32, 0}, TensorType::kQ8_0).ok());
    ASSERT_TRUE(writer.AddTensor("last", {1}, TensorType::kF16).ok());
    const absl::StatusOr<GgufLayout> layout = writer.Layout();
    ASSERT_TRUE(layout.ok()) << layout.status();
    const std::string path = TempPath("aligned.gguf");
    const auto paths = GgufWriter::Write(
        *layout, path, 3, [&](size_t tensor, uint64_t begin, uint64_t end, uint8_t* bytes) {
          const size_t size = quant::FormatOf(layout->tensors[tensor].type).block_bytes;
          FillWithPlace(tensor, begin, end, size, bytes);
        });
    ASSERT_TRUE(paths.ok()) << paths.status();
    EXPECT_EQ(*paths, std::vector<std::string>{path});

    const std::string file = ReadFile(path);
    EXPECT_EQ(file.size(), layout->file_bytes());
    const uint64_t data = layout->shards[0].header.size();
    EXPECT_EQ(data % alignment, 0u);
    uint64_t end = 0;
    for (size_t i = 0; i < layout->tensors.size(); ++i) {
      const GgufTensor& tensor = layout->tensors[i];
      EXPECT_EQ(tensor.offset % alignment, 0u);
      EXPECT_GE(tensor.offset, end);
      EXPECT_LT(tensor.offset - end, alignment);
      for (uint64_t byte = end; byte < tensor.offset; ++byte) ASSERT_EQ(file[data + byte], 0);
      end = tensor.offset + tensor.bytes;
      const size_t block_bytes = quant::FormatOf(tensor.type).block_bytes;
      for (uint64_t byte = 0; byte < tensor.bytes; ++byte) {
        ASSERT_EQ(static_cast<uint8_t>(file[data + tensor.offset + byte]),
                  i * 16 + byte / block_bytes % 16)
            << tensor.name << " byte " << byte;
      }
    }
    EXPECT_EQ(layout->tensors[2].bytes, 210u * 40000);
  }
}

TEST(GgufWriterTest, BadTensorsAreErrors) {
  GgufWriter writer;
  EXPECT_FALSE(writer.AddTensor("columns", {33}, TensorType::kQ8_0).ok());
  EXPECT_FALSE(writer.AddTensor("no dims", {}, TensorType::kF32).ok());
  EXPECT_FALSE(writer.AddTensor("five", {1, 1, 1, 1, 1}, TensorType::kF32).ok());
  EXPECT_FALSE(writer.AddTensor("type", {32}, static_cast<TensorType>(4)).ok());
  EXPECT_FALSE(writer.AddTensor("huge", {1u << 31, 1u << 31, 1u << 31}, TensorType::kF32).ok());
  EXPECT_FALSE(GgufWriter({.alignment = 48}).Layout().ok());
  EXPECT_TRUE(writer.Layout()->tensors.empty());
}

TEST(GgufWriterTest, ShardsStayBelowTheLimit) {
  GgufWriter writer({.shard_bytes = 1000});
  for (int i = 0; i < 7; ++i) {
    ASSERT_TRUE(writer.AddTensor("t" + std::to_string(i), {64}, TensorType::kF32).ok());
  }
  ASSERT_TRUE(writer.AddTensor("large", {1000}, TensorType::kF32).ok());
  ASSERT_TRUE(writer.AddTensor("after", {1}, TensorType::kF32).ok());
  const absl::StatusOr<GgufLayout> layout = writer.Layout();
  ASSERT_TRUE(layout.ok());
  std::vector<uint32_t> shards;
  for (const GgufTensor& tensor : layout->tensors) shards.push_back(tensor.shard);
  EXPECT_EQ(shards, (std::vector<uint32_t>{0, 0, 0, 1, 1, 1, 2, 3, 4}));
  EXPECT_EQ(layout->tensors[3].offset, 0u);

  GgufWriter apart({.shard_bytes = 1000, .metadata_shard = true});
  ASSERT_TRUE(apart.AddTensor("t", {64}, TensorType::kF32).ok());
  const absl::StatusOr<GgufLayout> two = apart.Layout();
  ASSERT_TRUE(two.ok());
  ASSERT_EQ(two->shards.size(), 2u);
  EXPECT_EQ(two->shards[0].data_bytes, 0u);
  EXPECT_EQ(two->tensors[0].shard, 1u);
}

TEST(GgufWriterTest, ShardPathsFollowTheConvention) {
  EXPECT_EQ(GgufWriter::ShardPath("/m/name.gguf", 0, 1), "/m/name.gguf");
  EXPECT_EQ(GgufWriter::ShardPath("/m/name.gguf", 0, 3), "/m/name-00001-of-00003.gguf");
  EXPECT_EQ(GgufWriter::ShardPath("/m/name", 2, 3), "/m/name-00003-of-00003.gguf");
}

TEST(GgufWriterTest, ReplacesAFileButNotItsInode) {
  const std::string path = TempPath("replaced.gguf");
  std::ofstream(path) << "old";
  struct stat before {};
  struct stat after {};
  std::ifstream old(path);  // keeps the inode alive, so that its number is not used again
  ASSERT_EQ(stat(path.c_str(), &before), 0);
  ASSERT_TRUE(GgufWriter().Write(path, 1, [](auto...) {}).ok());
  ASSERT_EQ(stat(path.c_str(), &after), 0);
  EXPECT_NE(before.st_ino, after.st_ino);
  EXPECT_EQ(ReadFile(path).substr(0, 4), "GGUF");
}

TEST(GgufWriterTest, NothingIsLeftAfterAnError) {
  GgufWriter writer({.shard_bytes = 100});
  ASSERT_TRUE(writer.AddTensor("a", {32}, TensorType::kF32).ok());
  ASSERT_TRUE(writer.AddTensor("b", {32}, TensorType::kF32).ok());
  const std::string path = TempPath("failing.gguf");
  const std::string first = GgufWriter::ShardPath(path, 0, 2);
  const std::string second = GgufWriter::ShardPath(path, 1, 2);
  ASSERT_EQ(mkdir(second.c_str(), 0755), 0);  // in the way of the second shard
  const auto paths = writer.Write(path, 2, [](auto...) {});
  EXPECT_FALSE(paths.ok());
  EXPECT_NE(std::string(paths.status().message()).find(second), std::string::npos)
      << paths.status();
  EXPECT_FALSE(Exists(first));
  EXPECT_FALSE(writer.Write(TempPath("no/such/folder.gguf"), 2, [](auto...) {}).ok());
}

}  // namespace
}  // namespace gguf_offload

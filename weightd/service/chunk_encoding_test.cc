#include "weightd/service/chunk_encoding.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace gguf_offload {
namespace {

std::string Flatten(grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(buffer.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& slice : slices) bytes.append(slice.begin(), slice.end());
  return bytes;
}

TEST(ChunkEncoding, ProtobufReadsWhatIsWritten) {
  const std::vector<uint64_t> numbers = {0, 1, 127, 128, 300, uint64_t{1} << 40, UINT64_MAX};
  for (const uint64_t number : numbers) {
    for (const size_t bytes : {size_t{0}, size_t{1}, size_t{127}, size_t{128}, size_t{70000}}) {
      std::string data(bytes, 'x');
      for (size_t i = 0; i < bytes; ++i) data[i] = static_cast<char>(i * 7);
      const ChunkHeader header{number, ~number, number * 31 + 5, bytes % 2 == 1};
      grpc::ByteBuffer buffer = EncodeChunk(
          header, {reinterpret_cast<const uint8_t*>(data.data()), data.size()}, nullptr);
      v1::StreamBlocksResponse message;
      ASSERT_TRUE(message.ParseFromString(Flatten(buffer)));
      ASSERT_TRUE(message.has_chunk());
      EXPECT_EQ(message.chunk().read_id(), header.read_id);
      EXPECT_EQ(message.chunk().offset(), header.offset);
      EXPECT_EQ(message.chunk().xxh64(), header.xxh64);
      EXPECT_EQ(message.chunk().last(), header.last);
      EXPECT_EQ(message.chunk().data(), data);
    }
  }
}

TEST(ChunkEncoding, RefersToTheDataAndHoldsItsOwner) {
  const std::vector<uint8_t> data(1000, 3);
  auto owner = std::make_shared<int>(1);
  {
    const grpc::ByteBuffer buffer = EncodeChunk({}, data, owner);
    EXPECT_EQ(owner.use_count(), 2);
    std::vector<grpc::Slice> slices;
    ASSERT_TRUE(buffer.Dump(&slices).ok());
    ASSERT_EQ(slices.size(), 2u);
    EXPECT_EQ(slices[1].begin(), data.data());
  }
  EXPECT_EQ(owner.use_count(), 1);
}

}  // namespace
}  // namespace gguf_offload

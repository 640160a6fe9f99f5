#include "weightd/client/chunk_decoding.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace gguf_offload {
namespace {

// The message cut into slices of `slice_bytes`, as the network might.
grpc::ByteBuffer Sliced(const std::string& bytes, size_t slice_bytes) {
  std::vector<grpc::Slice> slices;
  for (size_t at = 0; at < bytes.size(); at += slice_bytes) {
    slices.emplace_back(bytes.substr(at, slice_bytes));
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

std::string DataOf(const DecodedResponse& response) {
  std::string data(response.data_bytes(), '\0');
  response.CopyData(reinterpret_cast<uint8_t*>(data.data()));
  return data;
}

v1::StreamBlocksResponse Chunk(size_t bytes) {
  v1::StreamBlocksResponse message;
  v1::StreamChunk& chunk = *message.mutable_chunk();
  chunk.set_read_id(300);
  chunk.set_offset(uint64_t{1} << 40);
  chunk.set_xxh64(0x0123456789abcdef);
  chunk.set_last(true);
  for (size_t i = 0; i < bytes; ++i) chunk.mutable_data()->push_back(static_cast<char>(i * 31));
  return message;
}

TEST(ChunkDecoding, ReadsChunksHoweverTheyAreSliced) {
  for (const size_t bytes : {1, 5, 60, 64, 65, 1000, 70000}) {
    const v1::StreamBlocksResponse message = Chunk(bytes);
    const std::string serialized = message.SerializeAsString();
    for (const size_t slice : {size_t{1}, size_t{7}, size_t{64}, size_t{4096}, serialized.size()}) {
      if (serialized.size() / slice > 1000) continue;
      const auto response = DecodedResponse::Decode(Sliced(serialized, slice));
      ASSERT_TRUE(response.ok()) << response.status();
      ASSERT_TRUE(response->is_chunk());
      EXPECT_EQ(response->read_id(), 300u);
      EXPECT_EQ(response->offset(), uint64_t{1} << 40);
      EXPECT_EQ(response->xxh64(), 0x0123456789abcdefu);
      EXPECT_TRUE(response->last());
      EXPECT_EQ(DataOf(*response), message.chunk().data());
    }
  }
}

TEST(ChunkDecoding, ReadsWhateverElseIsAStreamBlocksResponse) {
  v1::StreamBlocksResponse started;
  started.mutable_started()->set_generation(77);
  auto response = DecodedResponse::Decode(Sliced(started.SerializeAsString(), 3));
  ASSERT_TRUE(response.ok());
  EXPECT_FALSE(response->is_chunk());
  EXPECT_EQ(response->started()->generation(), 77u);

  // The data before the other fields, and no data at all.
  const std::string fields("\x2a\x02hi\x08\x05", 6);
  response = DecodedResponse::Decode(Sliced("\x12\x06" + fields, 100));
  ASSERT_TRUE(response.ok());
  EXPECT_EQ(response->read_id(), 5u);
  EXPECT_EQ(DataOf(*response), "hi");
  response = DecodedResponse::Decode(Sliced(std::string("\x12\x02\x08\x05", 4), 100));
  ASSERT_TRUE(response.ok());
  EXPECT_TRUE(response->is_chunk());
  EXPECT_EQ(response->data_bytes(), 0u);
}

TEST(ChunkDecoding, RefusesCutMessagesWithoutReadingBeyondThem) {
  const std::string serialized = Chunk(200).SerializeAsString();
  for (size_t size = 1; size < serialized.size(); ++size) {
    EXPECT_TRUE(absl::IsInvalidArgument(
        DecodedResponse::Decode(Sliced(serialized.substr(0, size), 16)).status()))
        << size;
  }
  EXPECT_FALSE(DecodedResponse::Decode(Sliced(std::string(100, '\xff'), 16)).ok());
}

TEST(ChunkDecoding, AnyFlippedByteIsReadLikeProtobufReadsIt) {
  const std::string serialized = Chunk(90).SerializeAsString();
  for (size_t at = 0; at < 40; ++at) {
    for (int flip = 1; flip < 256; ++flip) {
      std::string damaged = serialized;
      damaged[at] = static_cast<char>(damaged[at] ^ flip);
      v1::StreamBlocksResponse message;
      const bool parsed = message.ParseFromString(damaged);
      const auto response = DecodedResponse::Decode(Sliced(damaged, 16));
      ASSERT_EQ(response.ok(), parsed) << at << " " << flip;
      if (!parsed || !message.has_chunk()) continue;
      EXPECT_EQ(response->read_id(), message.chunk().read_id());
      EXPECT_EQ(response->offset(), message.chunk().offset());
      EXPECT_EQ(response->last(), message.chunk().last());
      EXPECT_EQ(DataOf(*response), message.chunk().data());
    }
  }
}

}  // namespace
}  // namespace gguf_offload

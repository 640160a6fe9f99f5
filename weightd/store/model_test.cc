#include "weightd/store/model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string>
#include <vector>

#include "weightd/gguf/testing/gguf_builder.h"
#include "weightd/store/testing/temp_folder.h"

namespace gguf_offload::store {
namespace {

using gguf::GgufBuilder;
using gguf::ValueType;
using quant::TensorType;
using ::testing::HasSubstr;

// Shard `index` of `count` with one tensor, of `tensors` in all, as gguf-split writes them.
GgufBuilder Shard(uint16_t index, uint16_t count, int32_t tensors, const std::string& tensor) {
  GgufBuilder builder;
  if (index == 0) builder.String("general.architecture", "llama");
  return builder.Number("split.no", ValueType::kUint16, index)
      .Number("split.count", ValueType::kUint16, count)
      .Number("split.tensors.count", ValueType::kInt32, tensors)
      .Tensor(tensor, TensorType::kF32, {8}, GgufBuilder::Pattern(32, index + 1));
}

// Writes m-00001-of-00003.gguf and so on.
std::string WriteThreeShards(const TempFolder& folder) {
  for (uint16_t i = 0; i < 3; ++i) {
    folder.Write("m-0000" + std::to_string(i + 1) + "-of-00003.gguf",
                 Shard(i, 3, 3, "t" + std::to_string(i)).Build());
  }
  return folder.Path("m-00001-of-00003.gguf");
}

void ExpectRefused(const std::string& path, absl::StatusCode code,
                   const std::vector<std::string>& what) {
  const auto model = Model::Open("m", path);
  ASSERT_FALSE(model.ok());
  EXPECT_EQ(model.status().code(), code) << model.status();
  for (const std::string& part : what) {
    EXPECT_THAT(std::string(model.status().message()), HasSubstr(part));
  }
}

TEST(Model, OpensGoldenModel) {
  const auto opened = Model::Open("golden", "tests/testdata/golden/models/llama-kq.gguf");
  ASSERT_TRUE(opened.ok()) << opened.status();
  const Model& model = **opened;
  EXPECT_EQ(model.name(), "golden");
  EXPECT_EQ(model.architecture(), "llama");
  EXPECT_EQ(model.tensors().size(), 21u);
  EXPECT_EQ(model.total_bytes(), 849504u);
  EXPECT_NE(model.generation(), 0u);
  const auto index = model.FindTensor("output.weight");
  ASSERT_TRUE(index.has_value());
  EXPECT_EQ(model.TensorBytes(*index).size(), 73728u);
  // The file ends with this tensor.
  EXPECT_EQ(model.TensorBytes(*index).data() + 73728,
            model.shards()[0].file->data() + model.total_bytes());
  EXPECT_FALSE(model.FindTensor("absent").has_value());
}

TEST(Model, GenerationIsThatOfTheFiles) {
  const TempFolder folder;
  const std::string file = GgufBuilder().Tensor("t", TensorType::kI8, {3}, "abc").Build();
  const std::string path = folder.Write("m.gguf", file);
  const auto first = Model::Open("m", path);
  const auto again = Model::Open("other name", path);
  ASSERT_TRUE(first.ok() && again.ok());
  EXPECT_EQ((*first)->generation(), (*again)->generation());
  // Same contents, same size, another file.
  folder.Write("n.gguf", file);
  ASSERT_EQ(rename(folder.Path("n.gguf").c_str(), path.c_str()), 0);
  const auto replaced = Model::Open("m", path);
  ASSERT_TRUE(replaced.ok());
  EXPECT_NE((*first)->generation(), (*replaced)->generation());
  const timespec times[2] = {{.tv_sec = 7, .tv_nsec = 1}, {.tv_sec = 7, .tv_nsec = 1}};
  ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
  const auto touched = Model::Open("m", path);
  ASSERT_TRUE(touched.ok());
  EXPECT_NE((*touched)->generation(), (*replaced)->generation());
}

TEST(Model, OpensAllShards) {
  const TempFolder folder;
  const auto opened = Model::Open("m", WriteThreeShards(folder));
  ASSERT_TRUE(opened.ok()) << opened.status();
  const Model& model = **opened;
  ASSERT_EQ(model.shards().size(), 3u);
  ASSERT_EQ(model.tensors().size(), 3u);
  EXPECT_EQ(model.architecture(), "llama");
  for (uint32_t i = 0; i < 3; ++i) {
    const auto index = model.FindTensor("t" + std::to_string(i));
    ASSERT_EQ(index, i);
    EXPECT_EQ(model.tensors()[i].shard, i);
    const auto bytes = model.TensorBytes(i);
    EXPECT_EQ(std::string(bytes.begin(), bytes.end()), GgufBuilder::Pattern(32, i + 1));
  }
}

TEST(Model, AcceptsSingleFilesThatMentionSplits) {
  const TempFolder folder;
  EXPECT_TRUE(Model::Open("m", folder.Write("merged.gguf", Shard(0, 0, 1, "t").Build())).ok());
  EXPECT_TRUE(Model::Open("m", folder.Write("one.gguf", Shard(0, 1, 1, "t").Build())).ok());
  EXPECT_TRUE(Model::Open("m", folder.Write("a-00001-of-00001.gguf", GgufBuilder().Build())).ok());
}

TEST(Model, Case25ShardMissing) {
  const TempFolder folder;
  const std::string first = WriteThreeShards(folder);
  ASSERT_EQ(unlink(folder.Path("m-00002-of-00003.gguf").c_str()), 0);
  ExpectRefused(first, absl::StatusCode::kNotFound,
                {"shard 2 of 3", "m-00002-of-00003.gguf: cannot open"});
}

TEST(Model, Case25LaterShardNamesTheFirst) {
  const TempFolder folder;
  WriteThreeShards(folder);
  ExpectRefused(folder.Path("m-00002-of-00003.gguf"), absl::StatusCode::kInvalidArgument,
                {"this is shard 2 of 3", folder.Path("m-00001-of-00003.gguf")});
}

TEST(Model, Case25ShardsMixed) {
  const TempFolder folder;
  const std::string first = WriteThreeShards(folder);
  folder.Write("m-00003-of-00003.gguf", Shard(1, 3, 3, "t2").Build());
  ExpectRefused(first, absl::StatusCode::kInvalidArgument,
                {"m-00003-of-00003.gguf", "'split.no' is 1 instead of 2"});
  folder.Write("m-00003-of-00003.gguf", Shard(2, 4, 3, "t2").Build());
  ExpectRefused(first, absl::StatusCode::kInvalidArgument,
                {"m-00003-of-00003.gguf", "'split.count' is 4, but the name says 3"});
  folder.Write("m-00003-of-00003.gguf", Shard(2, 3, 5, "t2").Build());
  ExpectRefused(first, absl::StatusCode::kInvalidArgument,
                {"m-00003-of-00003.gguf", "'split.tensors.count' is 5", "hold 3"});
  folder.Write("m-00003-of-00003.gguf", Shard(2, 3, -3, "t2").Build());
  ExpectRefused(first, absl::StatusCode::kInvalidArgument,
                {"'split.tensors.count' is not a count"});
  folder.Write("m-00003-of-00003.gguf", Shard(2, 3, 3, "t0").Build());
  ExpectRefused(first, absl::StatusCode::kInvalidArgument,
                {"tensor 't0' is also in", "m-00001-of-00003.gguf"});
  folder.Write("m-00003-of-00003.gguf", GgufBuilder().Build());
  ExpectRefused(first, absl::StatusCode::kInvalidArgument,
                {"m-00003-of-00003.gguf", "'split.count' is missing"});
  folder.Write("m-00003-of-00003.gguf", GgufBuilder().String("split.count", "3").Build());
  ExpectRefused(first, absl::StatusCode::kInvalidArgument, {"'split.count' is not a count"});
  folder.Write("m-00003-of-00003.gguf", "garbage");
  ExpectRefused(first, absl::StatusCode::kInvalidArgument,
                {"shard 3 of 3", "m-00003-of-00003.gguf: offset 0"});
}

TEST(Model, Case25ShardsWithoutTheirNames) {
  const TempFolder folder;
  ExpectRefused(folder.Write("m.gguf", Shard(0, 3, 3, "t").Build()),
                absl::StatusCode::kInvalidArgument, {"'split.count' says 3"});
  // Names come from the path alone; a prefix with ../ stays the caller's, it is not the file's.
  WriteThreeShards(folder);
  const std::string name = folder.path().substr(folder.path().rfind('/') + 1);
  EXPECT_TRUE(Model::Open("m", folder.Path("../" + name + "/m-00001-of-00003.gguf")).ok());
  ExpectRefused(folder.Write("x-00001-of-99999.gguf", Shard(0, 3, 3, "t").Build()),
                absl::StatusCode::kResourceExhausted, {"99999 shards"});
}

TEST(Model, Case25ShardsLinkedOutOfTheFolder) {
  const TempFolder folder;
  const TempFolder elsewhere;
  const std::string first = WriteThreeShards(folder);
  const std::string second = folder.Path("m-00002-of-00003.gguf");
  elsewhere.Write("t1", Shard(1, 3, 3, "t1").Build());
  ASSERT_EQ(unlink(second.c_str()), 0);
  ASSERT_EQ(symlink(elsewhere.Path("t1").c_str(), second.c_str()), 0);
  EXPECT_TRUE(Model::Open("m", first).ok());
  const auto model = Model::Open("m", first, {.allowed_roots = {folder.path()}});
  EXPECT_EQ(model.status().code(), absl::StatusCode::kPermissionDenied) << model.status();
}

TEST(Model, Case28TruncatedShard) {
  const TempFolder folder;
  const auto model = Model::Open("m", WriteThreeShards(folder));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE((*model)->CheckIntact().ok());
  folder.Truncate("m-00003-of-00003.gguf", 10);
  const absl::Status status = (*model)->CheckIntact();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("m-00003-of-00003.gguf: truncated"));
}

TEST(Model, QuarantineKeepsTheFirstReason) {
  const auto model = Model::Open("golden", "tests/testdata/golden/models/llama-kq.gguf");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE((*model)->MarkQuarantined(absl::DataLossError("first")));
  EXPECT_FALSE((*model)->MarkQuarantined(absl::DataLossError("second")));
  EXPECT_EQ((*model)->CheckIntact(), absl::DataLossError("first"));
}

}  // namespace
}  // namespace gguf_offload::store

#include "weightd/manifest/manifest.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "weightd/gguf/testing/gguf_builder.h"
#include "weightd/store/testing/temp_folder.h"

namespace gguf_offload {
namespace {

using gguf::GgufBuilder;
using gguf::ValueType;

std::shared_ptr<const store::Model> Open(const std::string& path) {
  auto model = store::Model::Open("demo", path);
  EXPECT_TRUE(model.ok()) << model.status();
  return *model;
}

TEST(Manifest, DescribesAGoldenModel) {
  const auto model = Open("tests/testdata/golden/models/llama-kq.gguf");
  const v1::Manifest manifest = BuildManifest(*model);
  EXPECT_EQ(manifest.name(), "demo");
  EXPECT_EQ(manifest.generation(), model->generation());
  EXPECT_EQ(manifest.gguf_version(), 3u);
  EXPECT_EQ(manifest.architecture(), "llama");
  ASSERT_EQ(manifest.shards_size(), 1);
  EXPECT_EQ(manifest.shards(0).file_name(), "llama-kq.gguf");
  EXPECT_EQ(manifest.shards(0).bytes(), 849504u);
  ASSERT_EQ(manifest.tensors_size(), 21);
  const v1::TensorInfo& tensor = manifest.tensors(5);
  EXPECT_EQ(tensor.name(), "blk.0.attn_v.weight");
  EXPECT_EQ(tensor.type(), 11u);
  EXPECT_EQ(tensor.type_name(), "Q3_K");
  EXPECT_EQ(std::vector<uint64_t>(tensor.dimensions().begin(), tensor.dimensions().end()),
            (std::vector<uint64_t>{256, 128}));
  EXPECT_EQ(tensor.shard(), 0u);
  EXPECT_EQ(tensor.offset(), 13152u + 152064);
  EXPECT_EQ(tensor.bytes(), 14080u);
  ASSERT_EQ(manifest.metadata_size(), 23);
  EXPECT_EQ(manifest.metadata().at("llama.embedding_length").unsigned_value(), 256u);
  EXPECT_EQ(manifest.metadata().at("llama.rope.freq_base").float_value(), 10000.0);
  EXPECT_TRUE(manifest.metadata().at("tokenizer.ggml.add_bos_token").bool_value());
  const v1::MetadataArray& tokens = manifest.metadata().at("tokenizer.ggml.tokens").array_value();
  EXPECT_EQ(tokens.length(), 512u);
  EXPECT_EQ(tokens.element_type(), 8u);
  EXPECT_FALSE(tokens.elided());
  ASSERT_EQ(tokens.string_values_size(), 512);
  EXPECT_EQ(tokens.string_values(0), "\xc4\x80");
  // It survives the wire.
  v1::Manifest parsed;
  ASSERT_TRUE(parsed.ParseFromString(manifest.SerializeAsString()));
  EXPECT_EQ(parsed.tensors_size(), 21);
}

TEST(Manifest, UnknownTypesAndEmptyTensorsAreListed) {
  const store::TempFolder folder;
  const std::string path = folder.Write("m.gguf", GgufBuilder()
                                                      .RawTensor("strange", {5}, 142, 0)
                                                      .RawTensor("empty", {0, 3}, 0, 32)
                                                      .Data(std::string(40, 'x'))
                                                      .Build());
  const v1::Manifest manifest = BuildManifest(*Open(path));
  ASSERT_EQ(manifest.tensors_size(), 2);
  EXPECT_EQ(manifest.tensors(0).type(), 142u);
  EXPECT_EQ(manifest.tensors(0).type_name(), "UNKNOWN_142");
  EXPECT_EQ(manifest.tensors(0).bytes(), 40u);
  EXPECT_EQ(manifest.tensors(1).type_name(), "F32");
  EXPECT_EQ(manifest.tensors(1).bytes(), 0u);
  ASSERT_EQ(manifest.tensors(1).dimensions_size(), 2);
  EXPECT_EQ(manifest.tensors(1).dimensions(0), 0u);
}

TEST(Manifest, LeavesOutWhatIsNotWanted) {
  const auto model = Open("tests/testdata/golden/models/llama-kq.gguf");
  const v1::Manifest manifest =
      BuildManifest(*model, {.elide_long_arrays = true, .tensors = false});
  EXPECT_EQ(manifest.tensors_size(), 0);
  const v1::MetadataArray& tokens = manifest.metadata().at("tokenizer.ggml.tokens").array_value();
  EXPECT_EQ(tokens.length(), 512u);
  EXPECT_TRUE(tokens.elided());
  EXPECT_EQ(tokens.string_values_size(), 0);
  EXPECT_LT(manifest.ByteSizeLong(), 4000u);
}

gguf::GgufFile Parse(const GgufBuilder& builder) {
  const std::string bytes = builder.Build();
  auto file =
      gguf::ParseGguf({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "test");
  EXPECT_TRUE(file.ok()) << file.status();
  return *std::move(file);
}

TEST(Manifest, TranslatesValues) {
  const gguf::GgufFile file = Parse(GgufBuilder()
                                        .Number("i8", ValueType::kInt8, int8_t{-7})
                                        .Number("u64", ValueType::kUint64, ~uint64_t{0})
                                        .Number("f64", ValueType::kFloat64, 0.1)
                                        .Number("no", ValueType::kBool, uint8_t{0})
                                        .String("text", "\xc3\xa9")
                                        .String("bytes", "\xff\xfe"));
  const auto build = [&](const char* key) { return BuildMetadataValue(*file.Find(key), true); };
  EXPECT_EQ(build("i8").signed_value(), -7);
  EXPECT_EQ(build("u64").unsigned_value(), ~uint64_t{0});
  EXPECT_EQ(build("f64").float_value(), 0.1);
  EXPECT_EQ(build("no").value_case(), v1::MetadataValue::kBoolValue);
  EXPECT_EQ(build("text").string_value(), "\xc3\xa9");
  EXPECT_EQ(build("bytes").bytes_value(), "\xff\xfe");
}

TEST(Manifest, TranslatesArrays) {
  const auto floats = GgufBuilder::Bytes(1.5f) + GgufBuilder::Bytes(-0.1f);
  const gguf::GgufFile file = Parse(GgufBuilder()
                                        .RawArray("u8", 0, 2, "\xff\x01")
                                        .RawArray("i8", 1, 2, "\xff\x01")
                                        .RawArray("bool", 7, 2, std::string("\x01\x00", 2))
                                        .RawArray("f32", 6, 2, floats)
                                        .RawArray("f64", 12, 1, GgufBuilder::Bytes(0.1))
                                        .RawArray("none", 5, 0, "")
                                        .Strings("text", {"a", "\xc3\xa9"})
                                        .Strings("bytes", {"a", "\xff"})
                                        .RawArray("64", 0, 64, std::string(64, 'x'))
                                        .RawArray("65", 0, 65, std::string(65, 'x')));
  const auto build = [&](const char* key) {
    return BuildMetadataValue(*file.Find(key), true).array_value();
  };
  EXPECT_EQ(build("u8").unsigned_values(0), 255u);
  EXPECT_EQ(build("i8").signed_values(0), -1);
  EXPECT_EQ(build("bool").unsigned_values_size(), 2);
  EXPECT_EQ(build("bool").element_type(), 7u);
  EXPECT_EQ(build("f32").float_values(1), -0.1f);
  EXPECT_EQ(build("f64").double_values(0), 0.1);
  EXPECT_EQ(build("none").length(), 0u);
  EXPECT_EQ(build("none").element_type(), 5u);
  EXPECT_EQ(build("text").string_values(1), "\xc3\xa9");
  EXPECT_EQ(build("bytes").string_values_size(), 0);
  EXPECT_EQ(build("bytes").bytes_values(0), "a");
  EXPECT_EQ(build("bytes").bytes_values(1), "\xff");
  EXPECT_EQ(build("64").unsigned_values_size(), 64);
  EXPECT_EQ(build("65").unsigned_values_size(), 0);
  EXPECT_EQ(build("65").length(), 65u);
}

TEST(Manifest, NumbersShards) {
  const store::TempFolder folder;
  for (uint16_t i = 0; i < 2; ++i) {
    folder.Write("m-0000" + std::to_string(i + 1) + "-of-00002.gguf",
                 GgufBuilder()
                     .Number("split.no", ValueType::kUint16, i)
                     .Number("split.count", ValueType::kUint16, uint16_t{2})
                     .Tensor("t" + std::to_string(i), quant::TensorType::kF16, {2}, "1234")
                     .Build());
  }
  const v1::Manifest manifest = BuildManifest(*Open(folder.Path("m-00001-of-00002.gguf")));
  ASSERT_EQ(manifest.shards_size(), 2);
  EXPECT_EQ(manifest.shards(1).file_name(), "m-00002-of-00002.gguf");
  ASSERT_EQ(manifest.tensors_size(), 2);
  EXPECT_EQ(manifest.tensors(1).name(), "t1");
  EXPECT_EQ(manifest.tensors(1).shard(), 1u);
  EXPECT_EQ(manifest.architecture(), "");
}

}  // namespace
}  // namespace gguf_offload

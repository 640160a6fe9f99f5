// Well-formed files of every kind and each way of damaging one. Tests named CaseNN are those of the
// project's list of hostile inputs; cases of paths and shards are in weightd/store.
#include "weightd/gguf/gguf_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <string>
#include <vector>

#include "weightd/gguf/testing/fenced_bytes.h"
#include "weightd/gguf/testing/gguf_builder.h"

namespace gguf_offload::gguf {
namespace {

using quant::TensorType;
using ::testing::HasSubstr;

constexpr auto kF32 = static_cast<uint32_t>(TensorType::kF32);
constexpr auto kQ4K = static_cast<uint32_t>(TensorType::kQ4_K);
constexpr uint64_t kMax = ~uint64_t{0};

absl::StatusOr<GgufFile> Parse(std::string_view file) {
  const FencedBytes fenced(file);
  return ParseGguf(fenced.bytes(), "test.gguf");
}

// Every error names the file and an offset, and says `what`.
void ExpectRefused(std::string_view file, absl::StatusCode code, const std::string& what) {
  const auto parsed = Parse(file);
  ASSERT_FALSE(parsed.ok()) << "accepted; expected: " << what;
  EXPECT_EQ(parsed.status().code(), code) << parsed.status();
  const std::string message(parsed.status().message());
  EXPECT_THAT(message, HasSubstr("test.gguf: offset "));
  EXPECT_THAT(message, HasSubstr(what));
  EXPECT_LT(message.size(), 1000u);
}
void ExpectMalformed(std::string_view file, const std::string& what) {
  ExpectRefused(file, absl::StatusCode::kInvalidArgument, what);
}

// One key of every type, an array of every type, three tensors.
GgufBuilder RichFile() {
  GgufBuilder builder;
  builder.String("general.architecture", "llama")
      .Number("u8", ValueType::kUint8, uint8_t{200})
      .Number("i8", ValueType::kInt8, int8_t{-100})
      .Number("u16", ValueType::kUint16, uint16_t{60000})
      .Number("i16", ValueType::kInt16, int16_t{-30000})
      .Number("u32", ValueType::kUint32, uint32_t{4000000000})
      .Number("i32", ValueType::kInt32, int32_t{-2000000000})
      .Number("f32", ValueType::kFloat32, 1.5f)
      .Number("bool", ValueType::kBool, uint8_t{1})
      .Number("u64", ValueType::kUint64, kMax)
      .Number("i64", ValueType::kInt64, int64_t{-5})
      .Number("f64", ValueType::kFloat64, 0.1)
      .Strings("strings", {"a", "", "b\xff"});
  for (uint32_t type : {0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12}) {
    const size_t size = type < 2 || type == 7 ? 1 : type < 4 ? 2 : type < 7 ? 4 : 8;
    std::string elements;
    for (char i : {1, 0, 1}) elements += std::string(1, i) + std::string(size - 1, '\0');
    builder.RawArray("array" + std::to_string(type), type, 3, elements);
  }
  return builder.Tensor("first", TensorType::kF32, {4, 2}, GgufBuilder::Pattern(32))
      .Tensor("second", TensorType::kQ4_K, {256, 3, 2}, GgufBuilder::Pattern(144 * 6))
      .Tensor("third", TensorType::kI8, {3}, "abc");
}

TEST(GgufFile, ReadsEveryTypeOfValue) {
  const auto file = Parse(RichFile().Build());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->version, 3u);
  EXPECT_EQ(file->alignment, 32u);
  EXPECT_EQ(*file->FindString("general.architecture"), "llama");
  const auto value = [&](std::string_view key) { return file->Find(key)->data; };
  EXPECT_EQ(std::get<uint64_t>(value("u8")), 200u);
  EXPECT_EQ(std::get<int64_t>(value("i8")), -100);
  EXPECT_EQ(std::get<uint64_t>(value("u16")), 60000u);
  EXPECT_EQ(std::get<int64_t>(value("i16")), -30000);
  EXPECT_EQ(std::get<uint64_t>(value("u32")), 4000000000u);
  EXPECT_EQ(std::get<int64_t>(value("i32")), -2000000000);
  EXPECT_EQ(std::get<double>(value("f32")), 1.5);
  EXPECT_EQ(std::get<bool>(value("bool")), true);
  EXPECT_EQ(std::get<uint64_t>(value("u64")), kMax);
  EXPECT_EQ(std::get<int64_t>(value("i64")), -5);
  EXPECT_EQ(std::get<double>(value("f64")), 0.1);
  EXPECT_EQ(file->Find("i16")->type, ValueType::kInt16);
  EXPECT_EQ(file->Find("absent"), nullptr);
  EXPECT_EQ(file->FindUnsigned("u16"), 60000u);
  EXPECT_EQ(file->FindUnsigned("i16"), std::nullopt);
  EXPECT_EQ(file->FindUnsigned("general.architecture"), std::nullopt);
}

TEST(GgufFile, ReadsEveryTypeOfArray) {
  const auto file = Parse(RichFile().Build());
  ASSERT_TRUE(file.ok()) << file.status();
  const auto array = [&](std::string_view key) { return std::get<Array>(file->Find(key)->data); };
  EXPECT_EQ(std::get<std::vector<std::string>>(array("strings").elements),
            (std::vector<std::string>{"a", "", "b\xff"}));
  EXPECT_EQ(std::get<std::vector<uint8_t>>(array("array0").elements),
            (std::vector<uint8_t>{1, 0, 1}));
  EXPECT_EQ(std::get<std::vector<int8_t>>(array("array1").elements),
            (std::vector<int8_t>{1, 0, 1}));
  EXPECT_EQ(std::get<std::vector<uint16_t>>(array("array2").elements),
            (std::vector<uint16_t>{1, 0, 1}));
  EXPECT_EQ(std::get<std::vector<int16_t>>(array("array3").elements),
            (std::vector<int16_t>{1, 0, 1}));
  EXPECT_EQ(std::get<std::vector<uint32_t>>(array("array4").elements),
            (std::vector<uint32_t>{1, 0, 1}));
  EXPECT_EQ(std::get<std::vector<int32_t>>(array("array5").elements),
            (std::vector<int32_t>{1, 0, 1}));
  EXPECT_EQ(std::get<std::vector<float>>(array("array6").elements).size(), 3u);
  EXPECT_EQ(array("array7").element_type, ValueType::kBool);
  EXPECT_EQ(std::get<std::vector<uint8_t>>(array("array7").elements),
            (std::vector<uint8_t>{1, 0, 1}));
  EXPECT_EQ(std::get<std::vector<uint64_t>>(array("array10").elements),
            (std::vector<uint64_t>{1, 0, 1}));
  EXPECT_EQ(std::get<std::vector<int64_t>>(array("array11").elements),
            (std::vector<int64_t>{1, 0, 1}));
  EXPECT_EQ(std::get<std::vector<double>>(array("array12").elements).size(), 3u);
}

TEST(GgufFile, PlacesTensors) {
  const std::string bytes = RichFile().Build();
  auto parsed = Parse(bytes);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const GgufFile file = *std::move(parsed);  // the lookups survive a move
  ASSERT_EQ(file.tensors.size(), 3u);
  const TensorEntry* second = file.FindTensor("second");
  ASSERT_EQ(second, &file.tensors[1]);
  EXPECT_EQ(second->type, TensorType::kQ4_K);
  EXPECT_EQ(second->dimensions, (std::vector<uint64_t>{256, 3, 2}));
  EXPECT_EQ(second->bytes, 6u * 144);
  EXPECT_EQ(second->offset, file.data_offset + 32);
  EXPECT_EQ(bytes.substr(file.tensors[2].offset, file.tensors[2].bytes), "abc");
  EXPECT_EQ(file.FindTensor("fourth"), nullptr);
  EXPECT_EQ(file.data_offset % 32, 0u);
}

TEST(GgufFile, AcceptsFilesWithoutTensorsOrMetadata) {
  EXPECT_TRUE(Parse(GgufBuilder().Build()).ok());
  EXPECT_TRUE(Parse(GgufBuilder().BuildHeader()).ok());  // not padded
  EXPECT_TRUE(Parse(GgufBuilder().Strings("tokenizer.ggml.tokens", {"a"}).BuildHeader()).ok());
  const auto loose = Parse(GgufBuilder().Tensor("lora_a", TensorType::kF32, {1}, "1234").Build());
  ASSERT_TRUE(loose.ok()) << loose.status();
  EXPECT_EQ(loose->tensors.size(), 1u);
}

TEST(GgufFile, AcceptsTensorsInAnyOrderWithGapsAndTrailingBytes) {
  const std::string file = GgufBuilder()
                               .RawTensor("b", {8}, kF32, 128)
                               .RawTensor("a", {8}, kF32, 0)
                               .Data(std::string(500, 'x'))
                               .Build();
  const auto parsed = Parse(file);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->tensors[0].offset, parsed->data_offset + 128);
}

TEST(GgufFile, AcceptsVersion2AndOtherAlignments) {
  for (uint32_t alignment : {1u, 8u, 64u, 4096u, 1u << 20}) {
    const auto parsed = Parse(GgufBuilder()
                                  .Version(2)
                                  .Alignment(alignment)
                                  .Tensor("a", TensorType::kI8, {5}, "12345")
                                  .Tensor("b", TensorType::kI8, {5}, "54321")
                                  .Build());
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->version, 2u);
    EXPECT_EQ(parsed->alignment, alignment);
    EXPECT_EQ(parsed->tensors[1].offset % alignment, 0u);
  }
}

TEST(GgufFile, AcceptsEveryKnownTensorType) {
  int known = 0;
  for (uint32_t type = 0; type < 100; ++type) {
    const quant::Format* format = quant::FindFormat(type);
    if (format == nullptr) continue;
    ++known;
    const auto parsed = Parse(GgufBuilder()
                                  .RawTensor("t", {format->block_elements, 2}, type, 0)
                                  .Data(std::string(format->block_bytes * 2, 'x'))
                                  .Build());
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->tensors[0].bytes, format->block_bytes * 2u);
  }
  EXPECT_EQ(known, 35);
}

TEST(GgufFile, Case01EmptyFile) { ExpectMalformed("", "the file is empty"); }

TEST(GgufFile, Case02BadMagic) {
  ExpectMalformed("GGUf" + RichFile().Build().substr(4), "not a GGUF file");
  ExpectMalformed("lmgg" + RichFile().Build().substr(4), "before GGUF");
  ExpectMalformed(std::string(100, '\0'), "not a GGUF file");
  ExpectMalformed("GG", "no room for the magic");
}

TEST(GgufFile, Case03Versions) {
  ExpectMalformed(GgufBuilder().Version(0).Build(), "version 0");
  for (uint32_t version : {1u, 4u, 65535u, 0xFFFFFFFFu}) {
    ExpectRefused(GgufBuilder().Version(version).Build(), absl::StatusCode::kUnimplemented,
                  "version " + std::to_string(version));
  }
}

TEST(GgufFile, Case04BigEndian) {
  for (uint32_t version : {0x02000000u, 0x03000000u}) {
    ExpectRefused(GgufBuilder().Version(version).Build(), absl::StatusCode::kUnimplemented,
                  "big-endian");
  }
}

TEST(GgufFile, Case05CutAtEveryHeaderByte) {
  const std::string header = RichFile().BuildHeader();
  FencedBytes fenced(header);
  for (size_t size = header.size(); size > 0; --size) {
    fenced.Shorten(size - 1);
    const auto parsed = ParseGguf(fenced.bytes(), "test.gguf");
    ASSERT_FALSE(parsed.ok()) << "cut to " << size - 1;
    ASSERT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << parsed.status();
    ASSERT_THAT(std::string(parsed.status().message()), HasSubstr("test.gguf: offset "));
  }
}

TEST(GgufFile, Case06KeyCount) {
  ExpectRefused(RichFile().ClaimMetadataCount(uint64_t{1} << 63).Build(),
                absl::StatusCode::kResourceExhausted, "metadata keys");
  ExpectMalformed(RichFile().ClaimMetadataCount(1000000).Build(), "no room for 1000000 metadata");
  ExpectMalformed(GgufBuilder().ClaimMetadataCount(1).BuildHeader(), "no room for 1 metadata");
}

TEST(GgufFile, Case07TensorCount) {
  ExpectRefused(RichFile().ClaimTensorCount(kMax).Build(), absl::StatusCode::kResourceExhausted,
                "tensors");
  ExpectMalformed(RichFile().ClaimTensorCount(1000000).Build(), "no room for 1000000 tensors");
  ExpectMalformed(GgufBuilder().ClaimTensorCount(1).BuildHeader(), "no room for 1 tensors");
}

TEST(GgufFile, Case08StringLength) {
  const std::string tail(100, 'x');
  for (uint64_t length : {kMax, kMax - 7, uint64_t{1} << 63, uint64_t{1000000}}) {
    const std::string huge = GgufBuilder::Bytes(length) + tail;
    ExpectMalformed(GgufBuilder().Raw("key", 8, huge).Build(), "no room for a string of");
    ExpectMalformed(GgufBuilder().RawArray("key", 8, 2, huge).Build(), "no room for a string of");
    const std::string header = GgufBuilder().ClaimMetadataCount(1).BuildHeader();
    ExpectMalformed(header + huge, "no room for a metadata key of");
    ExpectMalformed(GgufBuilder().ClaimTensorCount(1).BuildHeader() + huge,
                    "no room for a tensor name of");
  }
  ExpectRefused(GgufBuilder().String(std::string(65536, 'k'), "").Build(),
                absl::StatusCode::kResourceExhausted, "at most 65535");
  ExpectRefused(GgufBuilder().Tensor(std::string(1025, 't'), TensorType::kF32, {1}, "1234").Build(),
                absl::StatusCode::kResourceExhausted, "at most 1024");
  ExpectRefused(GgufBuilder().String("key", std::string(kMaxStringBytes + 1, 's')).Build(),
                absl::StatusCode::kResourceExhausted, "a string of");
}

TEST(GgufFile, Case09ArrayLength) {
  for (uint32_t type : {0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12}) {
    for (uint64_t length : {uint64_t{1} << 60, uint64_t{1} << 61, kMax, uint64_t{1000}}) {
      ExpectMalformed(GgufBuilder().RawArray("key", type, length, std::string(64, '\0')).Build(),
                      "no room for");
    }
  }
}

TEST(GgufFile, Case10NestedArrays) {
  std::string nested;
  for (int i = 0; i < 10000; ++i) {
    nested += GgufBuilder::Bytes(uint32_t{9}) + GgufBuilder::Bytes(uint64_t{1});
  }
  ExpectRefused(GgufBuilder().Raw("key", 9, nested).Build(), absl::StatusCode::kUnimplemented,
                "arrays of arrays");
}

TEST(GgufFile, Case11UnknownValueType) {
  for (uint32_t type : {13u, 14u, 255u, 0xFFFFFFFFu}) {
    ExpectMalformed(GgufBuilder().Raw("key", type, std::string(64, '\0')).Build(),
                    "'key': unknown value type " + std::to_string(type));
    ExpectMalformed(GgufBuilder().RawArray("key", type, 1, std::string(64, '\0')).Build(),
                    "'key': unknown type of array elements " + std::to_string(type));
  }
  ExpectMalformed(GgufBuilder().Number("key", ValueType::kBool, uint8_t{2}).Build(), "a bool of");
  ExpectMalformed(GgufBuilder().RawArray("key", 7, 2, std::string("\1\2")).Build(), "a bool of");
}

TEST(GgufFile, Case12DuplicateOrEmptyNames) {
  ExpectMalformed(GgufBuilder().Uint32("key", 1).Uint32("key", 1).Build(), "'key' occurs twice");
  ExpectMalformed(GgufBuilder().Uint32("", 1).Uint32("key", 1).Build(), "an empty metadata key");
  ExpectMalformed(GgufBuilder().Uint32("k\xff", 1).Build(), "not valid UTF-8");
  ExpectMalformed(GgufBuilder().Uint32("k\n", 1).Build(), "control characters");
  ExpectMalformed(GgufBuilder().Uint32(std::string_view("k\0", 2), 1).Build(), "control");
  const std::string data = "1234";
  ExpectMalformed(GgufBuilder()
                      .Tensor("t", TensorType::kF32, {1}, data)
                      .Tensor("t", TensorType::kF32, {1}, data)
                      .Build(),
                  "tensor 't' occurs twice");
  ExpectMalformed(GgufBuilder()
                      .Tensor("t", TensorType::kF32, {1}, data)
                      .Tensor("", TensorType::kF32, {1}, data)
                      .Build(),
                  "an empty tensor name");
  ExpectMalformed(GgufBuilder().Tensor("t\xed\xa0\x80", TensorType::kF32, {1}, data).Build(),
                  "not valid UTF-8");
}

TEST(GgufFile, Case13MillionKeysInLinearTime) {
  GgufBuilder builder;
  for (uint32_t i = 0; i < 1000000; ++i) builder.Uint32("key" + std::to_string(i), i);
  const std::string file = builder.Build();
  const auto start = std::chrono::steady_clock::now();
  const auto parsed = Parse(file);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(std::get<uint64_t>(parsed->Find("key987654")->data), 987654u);
  // Comparing each key with all others would take 5e11 comparisons, that is, minutes.
  EXPECT_LT(elapsed.count(), 20.0);
}

TEST(GgufFile, Case14Alignment) {
  for (uint32_t alignment : {0u, 3u, 33u, 1u << 21, 1u << 31, 0xFFFFFFFFu}) {
    ExpectMalformed(GgufBuilder().Uint32("general.alignment", alignment).Build(),
                    "instead of a power of two");
  }
  ExpectMalformed(GgufBuilder().String("general.alignment", "32").Build(), "instead of uint32");
  ExpectMalformed(
      GgufBuilder().Number("general.alignment", ValueType::kUint64, uint64_t{32}).Build(),
      "is of type uint64 instead of uint32");
  ExpectMalformed(GgufBuilder().Number("general.alignment", ValueType::kInt32, int32_t{32}).Build(),
                  "instead of uint32");
}

TEST(GgufFile, Case15DimensionCount) {
  const std::vector<uint64_t> ones(5, 1);
  for (uint32_t count : {0u, 5u, 0x80000000u, 0xFFFFFFFFu}) {
    ExpectMalformed(GgufBuilder().RawTensor("t", count, ones, kF32, 0).Data("1234").Build(),
                    "tensor 't' has " + std::to_string(count) + " dimensions");
  }
}

// The tensors of `file` that must parse, as (offset in the data, bytes) in the file's order.
std::vector<std::pair<uint64_t, uint64_t>> Places(const std::string& file) {
  const auto parsed = Parse(file);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  std::vector<std::pair<uint64_t, uint64_t>> places;
  if (!parsed.ok()) return places;
  for (const TensorEntry& tensor : parsed->tensors) {
    places.emplace_back(tensor.offset - parsed->data_offset, tensor.bytes);
  }
  return places;
}

using PlaceList = std::vector<std::pair<uint64_t, uint64_t>>;

TEST(GgufFile, Case16DimensionZero) {
  for (const std::vector<uint64_t>& dimensions :
       {std::vector<uint64_t>{0}, {4, 0, 4}, {0, 0, 0, 0}, {1ull << 40, 1ull << 40, 0}}) {
    for (uint32_t type : {kF32, uint32_t{1000}}) {
      const GgufBuilder alone = GgufBuilder().RawTensor("t", dimensions, type, 0);
      EXPECT_EQ(Places(alone.Build()), (PlaceList{{0, 0}}));
      EXPECT_EQ(Places(alone.BuildHeader()), (PlaceList{{0, 0}}));  // not padded
    }
    const auto parsed = Parse(GgufBuilder().RawTensor("t", dimensions, kF32, 0).Build());
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(parsed->tensors[0].dimensions, dimensions);
    EXPECT_TRUE(parsed->tensors[0].empty());
  }
  // Where a neighbour begins, within it, and behind all others.
  const auto between = [](uint64_t offset) {
    return GgufBuilder()
        .RawTensor("first", {16}, kF32, 0)
        .RawTensor("empty", {0, 3}, kF32, offset)
        .RawTensor("second", {8}, kF32, 64)
        .Data(std::string(96, 'x'));
  };
  for (uint64_t offset : {0, 32, 64, 96}) {
    EXPECT_EQ(Places(between(offset).Build()), (PlaceList{{0, 64}, {offset, 0}, {64, 32}}));
  }
  ExpectMalformed(between(128).Build(), "do not lie within");
  ExpectMalformed(between(65).Build(), "not a multiple of the alignment");
  ExpectMalformed(GgufBuilder().RawTensor("t", {0}, kF32, 32).BuildHeader(), "do not lie within");
  ExpectMalformed(GgufBuilder().RawTensor("t", {128, 0}, kQ4K, 0).Build(), "is not a multiple of");
  for (uint64_t size : {kMax, (uint64_t{1} << 40) + 1}) {
    ExpectMalformed(GgufBuilder().RawTensor("t", {size, 0}, kF32, 0).Build(), "dimension 0 is");
    ExpectMalformed(GgufBuilder().RawTensor("t", {1, size}, kF32, 0).Build(), "dimension 1 is");
  }
}

TEST(GgufFile, Case17WrappingProduct) {
  constexpr uint64_t k32 = uint64_t{1} << 32;
  ExpectMalformed(GgufBuilder().RawTensor("t", {k32, k32}, kF32, 0).Build(), "elements wraps");
  ExpectMalformed(GgufBuilder().RawTensor("t", {k32, 1, k32, 2}, kF32, 0).Build(),
                  "elements wraps");
  ExpectMalformed(GgufBuilder().RawTensor("t", {k32, k32 / 4}, kF32, 0).Build(), "bytes wraps");
  ExpectMalformed(GgufBuilder().RawTensor("t", {k32, k32 - 1}, kF32, 0).Build(), "bytes wraps");
}

// It concerns only its tensor, whose bytes reach to the next one or to the end.
TEST(GgufFile, Case18RetiredOrUnknownTensorType) {
  for (uint32_t type : {4u, 5u, 31u, 32u, 33u, 36u, 37u, 38u, 43u, 142u, 1000u, 0xFFFFFFFFu}) {
    const auto parsed = Parse(GgufBuilder()
                                  .RawTensor("last", {7, 5}, type, 96)
                                  .RawTensor("t", {256}, type, 32)
                                  .RawTensor("known", {8}, kF32, 0)
                                  .Data(std::string(100, 'x'))
                                  .Build());
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    const uint64_t data = parsed->data_offset;
    EXPECT_EQ(static_cast<uint32_t>(parsed->tensors[0].type), type);
    EXPECT_EQ(parsed->tensors[0].offset, data + 96);
    EXPECT_EQ(parsed->tensors[0].bytes, 4u);
    EXPECT_EQ(parsed->tensors[1].bytes, 64u);
    EXPECT_EQ(parsed->tensors[1].dimensions, (std::vector<uint64_t>{256}));
    EXPECT_EQ(parsed->tensors[2].bytes, 32u);
    EXPECT_FALSE(parsed->tensors[0].empty());
  }
}

TEST(GgufFile, Case18UnknownTypesAreBoundsChecked) {
  constexpr uint32_t kUnknown = 142;
  const auto with = [](const std::vector<uint64_t>& dimensions, uint64_t offset) {
    return GgufBuilder()
        .RawTensor("t", dimensions, kUnknown, offset)
        .RawTensor("known", {8}, kF32, 64)
        .Data(std::string(96, 'x'))
        .Build();
  };
  EXPECT_EQ(Places(with({8}, 32)), (PlaceList{{32, 32}, {64, 32}}));
  // An empty tensor ends nothing.
  EXPECT_EQ(Places(GgufBuilder()
                       .RawTensor("t", {8}, kUnknown, 0)
                       .RawTensor("empty", {0}, kF32, 32)
                       .RawTensor("known", {8}, kF32, 64)
                       .Data(std::string(96, 'x'))
                       .Build()),
            (PlaceList{{0, 64}, {32, 0}, {64, 32}}));
  ExpectMalformed(with({8}, 64), "begins");
  ExpectMalformed(with({8}, 96), "tensor 't' of unknown type 142 has no bytes");
  ExpectMalformed(with({8}, 128), "do not lie within");
  ExpectMalformed(with({8}, kMax - 31), "do not lie within");
  ExpectMalformed(with({8}, 33), "not a multiple of the alignment");
  ExpectMalformed(with({kMax}, 0), "dimension 0 is");
  ExpectMalformed(with({uint64_t{1} << 32, uint64_t{1} << 32}, 0), "elements wraps");
  ExpectMalformed(GgufBuilder().RawTensor("t", {8}, kUnknown, 0).BuildHeader(),
                  "the file ends before the tensor data");
  // Within a tensor whose size is known.
  ExpectMalformed(GgufBuilder()
                      .RawTensor("known", {24}, kF32, 0)
                      .RawTensor("t", {8}, kUnknown, 64)
                      .Data(std::string(96, 'x'))
                      .Build(),
                  "tensor 't' at");
}

TEST(GgufFile, Case19RowNotMultipleOfBlock) {
  ExpectMalformed(
      GgufBuilder().RawTensor("t", {128, 2}, kQ4K, 0).Data(std::string(4096, 'x')).Build(),
      "a row of 128 elements is not a multiple of the block of 256");
}

TEST(GgufFile, Case20Offsets) {
  const std::string data(96, 'x');
  const auto with_offset = [&](uint64_t offset) {
    return GgufBuilder().RawTensor("t", {8}, kF32, offset).Data(data).Build();
  };
  EXPECT_TRUE(Parse(with_offset(64)).ok());
  ExpectMalformed(with_offset(96), "do not lie within");
  ExpectMalformed(with_offset(uint64_t{1} << 62), "do not lie within");
  ExpectMalformed(with_offset(kMax - 31), "do not lie within");  // + 32 wraps to 0
  // 2^64 - 64 bytes from offset 64: the sum wraps to 0.
  constexpr uint64_t k29 = uint64_t{1} << 29;
  ExpectMalformed(
      GgufBuilder()
          .RawTensor("t", {64 * (k29 - 1), k29 + 1}, static_cast<uint32_t>(TensorType::kI8), 64)
          .Data(data)
          .Build(),
      "do not lie within");
  ExpectMalformed(with_offset(33), "not a multiple of the alignment 32");
  const auto two = [&](uint64_t first, uint64_t second) {
    return GgufBuilder()
        .RawTensor("one", {16}, kF32, first)
        .RawTensor("two", {8}, kF32, second)
        .Data(data)
        .Build();
  };
  EXPECT_TRUE(Parse(two(0, 64)).ok());
  EXPECT_TRUE(Parse(two(32, 0)).ok());
  ExpectMalformed(two(0, 0), "overlaps tensor");
  ExpectMalformed(two(0, 32), "tensor 'two' at");
  ExpectMalformed(two(32, 64), "overlaps tensor 'one'");
}

TEST(GgufFile, Case21DataOneByteShort) {
  std::string file = RichFile().Build();
  ASSERT_TRUE(Parse(file).ok());
  file.pop_back();
  ExpectMalformed(file, "tensor 'third'");
  // Without even the padding.
  ExpectMalformed(RichFile().BuildHeader(), "the file ends before the tensor data");
}

// What a tokenizer's arrays hold is the tokenizer's to judge; that it can, it needs the types as
// they are in the file.
TEST(GgufFile, Case22ScoreArrayOfWrongTypeStaysVisible) {
  const auto parsed =
      Parse(GgufBuilder()
                .RawArray("tokenizer.ggml.scores", static_cast<uint32_t>(ValueType::kInt32), 2,
                          GgufBuilder::Bytes(int32_t{-1}) + GgufBuilder::Bytes(int32_t{7}))
                .Build());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const auto& array = std::get<Array>(parsed->Find("tokenizer.ggml.scores")->data);
  EXPECT_EQ(array.element_type, ValueType::kInt32);
  EXPECT_EQ(std::get<std::vector<int32_t>>(array.elements), (std::vector<int32_t>{-1, 7}));
}

TEST(GgufFile, Case23OddByteTokenStaysAsItIs) {
  const auto parsed =
      Parse(GgufBuilder().Strings("tokenizer.ggml.tokens", {"<0x-1>", "<0x0A>"}).Build());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const auto& array = std::get<Array>(parsed->Find("tokenizer.ggml.tokens")->data);
  EXPECT_EQ(std::get<std::vector<std::string>>(array.elements)[0], "<0x-1>");
}

// Any single byte of a header may be wrong; whatever comes of it stays inside the file.
TEST(GgufFile, SurvivesEveryFlippedHeaderByte) {
  const std::string good = RichFile().Build();
  const size_t header = RichFile().BuildHeader().size();
  for (size_t i = 0; i < header; ++i) {
    for (int flip : {0x01, 0x80, 0xFF}) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ flip);
      const auto parsed = Parse(bad);
      if (!parsed.ok()) continue;
      for (const TensorEntry& tensor : parsed->tensors) {
        ASSERT_LE(tensor.offset, bad.size());
        ASSERT_LE(tensor.bytes, bad.size() - tensor.offset);
      }
    }
  }
}

}  // namespace
}  // namespace gguf_offload::gguf

#include "tests/modelgen/quantize/quantize_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <random>
#include <string>
#include <variant>
#include <vector>

#include "kernels/quant/dequantize.h"
#include "kernels/quant/golden_blocks.h"
#include "tests/modelgen/gguf_writer.h"
#include "tests/modelgen/quantize/quantize.h"
#include "weightd/gguf/gguf_file.h"
#include "weightd/gguf/testing/gguf_builder.h"

namespace gguf_offload {
namespace {

using quant::TensorType;

std::string PathOf(const std::string& name) { return testing::TempDir() + "/" + name; }

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

bool Exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

struct Source {
  std::string name;
  std::vector<uint64_t> dims;
  TensorType type;
};

// Tensors of every kind that is treated in its own way.
const std::vector<Source>& Sources() {
  static const std::vector<Source> sources = {
      {"token_embd.weight", {512, 40}, TensorType::kF32},
      {"output_norm.weight", {512}, TensorType::kF32},
      {"blk.0.attn_q.weight", {256, 64}, TensorType::kF16},
      {"blk.0.attn_k.weight", {256, 3}, TensorType::kBF16},
      {"blk.0.attn_norm.weight", {256}, TensorType::kF16},
      {"blk.0.narrow.weight", {96, 5}, TensorType::kF32},
      {"blk.0.odd.weight", {17, 3}, TensorType::kF16},
      {"blk.0.ffn_gate_inp.weight", {256, 8}, TensorType::kF32},
      {"blk.0.ffn_up_exps.bias", {256, 8}, TensorType::kF32},
      {"blk.0.ffn_up_exps.weight", {256, 33, 3}, TensorType::kF32},
      {"blk.0.before.weight", {512, 100}, TensorType::kQ4_K},
      {"numbers", {7}, TensorType::kI32},
  };
  return sources;
}

std::vector<float> ValuesOf(size_t tensor) {
  uint64_t count = 1;
  for (const uint64_t dim : Sources()[tensor].dims) count *= dim;
  std::mt19937 random(static_cast<uint32_t>(tensor));
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// The bytes of a tensor of the source file.
std::vector<uint8_t> BytesOf(size_t tensor) {
  const TensorType type = Sources()[tensor].type;
  const std::vector<float> values = ValuesOf(tensor);
  std::vector<uint8_t> bytes(quant::RowBytes(quant::FormatOf(type), values.size()));
  if (type == TensorType::kI32) {
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i);
  } else {
    Quantize(type, values.data(), values.size(), bytes.data());
  }
  return bytes;
}

void WriteSource(const std::string& path, uint32_t alignment,
                 const std::function<void(size_t, std::vector<uint8_t>*)>& change = {}) {
  GgufWriter writer({.alignment = alignment});
  writer.AddMetadata("general.architecture", std::string("test"));
  writer.AddMetadata("general.file_type", uint32_t{0});
  writer.AddMetadata("a.u8", uint8_t{200});
  writer.AddMetadata("a.i8", int8_t{-100});
  writer.AddMetadata("a.u16", uint16_t{60000});
  writer.AddMetadata("a.i16", int16_t{-30000});
  writer.AddMetadata("a.i32", int32_t{-7});
  writer.AddMetadata("a.u64", uint64_t{1} << 63);
  writer.AddMetadata("a.i64", int64_t{-1} << 62);
  writer.AddMetadata("a.f32", 0.1f);
  writer.AddMetadata("a.f64", 0.1);
  writer.AddMetadata("a.bool", true);
  writer.AddMetadata("a.string", std::string("with \0 zero", 11));
  writer.AddMetadata("a.bools", std::vector<bool>{true, false, true});
  writer.AddMetadata("a.strings", std::vector<std::string>{"", "\xff", "text"});
  writer.AddMetadata("a.floats", std::vector<float>{1, -0.0f, 1e-40f});
  writer.AddMetadata("a.u8s", std::vector<uint8_t>{});
  for (const Source& source : Sources()) {
    ASSERT_TRUE(writer.AddTensor(source.name, source.dims, source.type).ok());
  }
  const auto written =
      writer.Write(path, 1, [&](size_t tensor, uint64_t begin, uint64_t end, uint8_t* out) {
        std::vector<uint8_t> bytes = BytesOf(tensor);
        if (change) change(tensor, &bytes);
        const uint64_t block_bytes = quant::FormatOf(Sources()[tensor].type).block_bytes;
        std::memcpy(out, bytes.data() + begin * block_bytes, (end - begin) * block_bytes);
      });
  ASSERT_TRUE(written.ok()) << written.status();
}

gguf::GgufFile Parsed(const std::string& bytes) {
  auto file =
      gguf::ParseGguf({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "out");
  EXPECT_TRUE(file.ok()) << file.status();
  return *std::move(file);
}

// The same type and value.
void ExpectSameValue(const std::string& key, const gguf::Value& a, const gguf::Value& b) {
  EXPECT_EQ(a.type, b.type) << key;
  ASSERT_EQ(a.data.index(), b.data.index()) << key;
  if (a.type != gguf::ValueType::kArray) {
    std::visit(
        [&](const auto& value) {
          using T = std::decay_t<decltype(value)>;
          if constexpr (!std::is_same_v<T, gguf::Array>) {
            EXPECT_EQ(value, std::get<T>(b.data));
          }
        },
        a.data);
    return;
  }
  const auto& left = std::get<gguf::Array>(a.data);
  const auto& right = std::get<gguf::Array>(b.data);
  EXPECT_EQ(left.element_type, right.element_type) << key;
  EXPECT_EQ(left.elements, right.elements) << key;
}

// The values that the source file means.
std::vector<float> SourceValues(size_t tensor) {
  const std::vector<uint8_t> bytes = BytesOf(tensor);
  std::vector<float> values(ValuesOf(tensor).size());
  quant::Dequantize(Sources()[tensor].type, bytes.data(), values.size(), values.data());
  return values;
}

void CheckTensors(const std::string& bytes, const gguf::GgufFile& file, TensorType type) {
  const uint32_t block = quant::FormatOf(type).block_elements;
  ASSERT_EQ(file.tensors.size(), Sources().size());
  for (size_t i = 0; i < Sources().size(); ++i) {
    const Source& source = Sources()[i];
    const gguf::TensorEntry& tensor = file.tensors[i];
    EXPECT_EQ(tensor.name, source.name);
    EXPECT_EQ(tensor.dimensions, source.dims);
    std::vector<uint8_t> expected = BytesOf(i);
    if (source.type == TensorType::kI32) {
      EXPECT_EQ(tensor.type, TensorType::kI32);
    } else {
      const bool kept = source.dims.size() == 1 || source.dims[0] % block != 0 ||
                        source.name == "blk.0.ffn_gate_inp.weight" ||
                        source.name == "blk.0.ffn_up_exps.bias";
      ASSERT_EQ(tensor.type, kept ? TensorType::kF32 : type) << tensor.name;
      if (tensor.type != source.type) {
        const std::vector<float> values = SourceValues(i);
        expected.resize(tensor.bytes);
        Quantize(tensor.type, values.data(), values.size(), expected.data());
      }
    }
    ASSERT_EQ(tensor.bytes, expected.size()) << tensor.name;
    EXPECT_EQ(std::memcmp(bytes.data() + tensor.offset, expected.data(), expected.size()), 0)
        << tensor.name;
  }
}

TEST(QuantizeFileTest, EveryTypeFromEveryKindOfTensor) {
  const std::string in = PathOf("in.gguf"), out = PathOf("out.gguf");
  WriteSource(in, 64);
  const gguf::GgufFile source = Parsed(ReadAll(in));
  for (const TensorType type :
       {TensorType::kF32, TensorType::kF16, TensorType::kBF16, TensorType::kQ8_0, TensorType::kQ6_K,
        TensorType::kQ5_K, TensorType::kQ4_K, TensorType::kQ3_K, TensorType::kQ2_K,
        TensorType::kQ4_0, TensorType::kIQ4_NL, TensorType::kIQ4_XS, TensorType::kMXFP4}) {
    const auto outcomes = QuantizeFile({.in = in, .out = out, .type = type, .threads = 2});
    ASSERT_TRUE(outcomes.ok()) << outcomes.status();
    const std::string bytes = ReadAll(out);
    const gguf::GgufFile file = Parsed(bytes);
    CheckTensors(bytes, file, type);
    EXPECT_EQ(file.alignment, 64u);
    EXPECT_EQ(file.FindUnsigned("general.quantization_version"), 2u);
    EXPECT_EQ(file.FindUnsigned("general.file_type").value() == 0, type == TensorType::kF32);
    EXPECT_EQ(file.metadata.size(), source.metadata.size() + 1);
    for (const auto& [key, value] : source.metadata) {
      ASSERT_NE(file.Find(key), nullptr) << key;
      if (key != "general.file_type") ExpectSameValue(key, value, *file.Find(key));
    }
    ASSERT_EQ(outcomes->size(), file.tensors.size());
    for (size_t i = 0; i < outcomes->size(); ++i) {
      EXPECT_EQ((*outcomes)[i].to, file.tensors[i].type);
      EXPECT_EQ((*outcomes)[i].to_bytes, file.tensors[i].bytes);
      EXPECT_EQ((*outcomes)[i].why_kept.empty(), file.tensors[i].type == type);
    }
  }
}

// What an already quantized file means, as other programs read it, is what is converted.
TEST(QuantizeFileTest, FilesOfEveryQuantizationAreRead) {
  const std::string in = PathOf("golden.gguf"), out = PathOf("converted.gguf");
  for (const quant::GoldenBlocks& golden : quant::AllGoldenBlocks()) {
    SCOPED_TRACE(golden.name);
    const uint64_t block_elements = golden.block_elements;
    // Rows that every type can have.
    const uint64_t columns = std::max<uint64_t>(block_elements, 256);
    const uint64_t rows = golden.values.size() / columns;
    ASSERT_GT(rows, 0u);
    GgufWriter writer;
    ASSERT_TRUE(writer.AddTensor("x.weight", {columns, rows}, golden.type()).ok());
    ASSERT_TRUE(writer
                    .Write(in, 1,
                           [&](size_t, uint64_t begin, uint64_t end, uint8_t* to) {
                             std::memcpy(to, &golden.blocks[begin * golden.block_bytes],
                                         (end - begin) * golden.block_bytes);
                           })
                    .ok());
    const size_t count = columns * rows;
    for (const TensorType type : {TensorType::kF32, TensorType::kQ8_0, TensorType::kQ4_K}) {
      ASSERT_TRUE(QuantizeFile({.in = in, .out = out, .type = type}).ok());
      const std::string bytes = ReadAll(out);
      const gguf::TensorEntry tensor = Parsed(bytes).tensors[0];
      ASSERT_EQ(tensor.type, type);
      std::vector<uint8_t> expected(tensor.bytes);
      if (type == golden.type()) {
        std::memcpy(expected.data(), golden.blocks.data(), expected.size());
      } else {
        Quantize(type, golden.values.data(), count, expected.data());
      }
      EXPECT_EQ(std::memcmp(bytes.data() + tensor.offset, expected.data(), expected.size()), 0);
    }
  }
}

TEST(QuantizeFileTest, EmbeddingTypeAndThreads) {
  const std::string in = PathOf("in2.gguf"), one = PathOf("one.gguf"), two = PathOf("two.gguf");
  WriteSource(in, 32);
  QuantizeOptions options{.in = in, .out = one, .type = TensorType::kQ2_K, .threads = 1};
  options.embedding_type = TensorType::kQ6_K;
  ASSERT_TRUE(QuantizeFile(options).ok());
  options.out = two;
  options.threads = 3;
  ASSERT_TRUE(QuantizeFile(options).ok());
  const std::string bytes = ReadAll(one);
  EXPECT_EQ(bytes, ReadAll(two));
  const gguf::GgufFile file = Parsed(bytes);
  EXPECT_EQ(file.FindTensor("token_embd.weight")->type, TensorType::kQ6_K);
  EXPECT_EQ(file.FindTensor("blk.0.attn_q.weight")->type, TensorType::kQ2_K);
}

TEST(QuantizeFileTest, InPlace) {
  const std::string path = PathOf("place.gguf"), other = PathOf("other.gguf");
  WriteSource(path, 32);
  ASSERT_TRUE(QuantizeFile({.in = path, .out = other, .type = TensorType::kQ8_0}).ok());
  ASSERT_TRUE(QuantizeFile({.in = path, .out = path, .type = TensorType::kQ8_0}).ok());
  EXPECT_EQ(ReadAll(path), ReadAll(other));
}

TEST(QuantizeFileTest, ValuesThatCannotBeHeldAreNamed) {
  const std::string in = PathOf("nan.gguf"), out = PathOf("kept.gguf");
  std::ofstream(out) << "what was there";
  for (const float bad : {std::nanf(""), INFINITY, 70000.0f}) {
    WriteSource(in, 32, [bad](size_t tensor, std::vector<uint8_t>* bytes) {
      // Element 12345 of token_embd.weight.
      if (tensor == 0) std::memcpy(bytes->data() + 4 * 12345, &bad, sizeof bad);
    });
    const auto outcomes = QuantizeFile({.in = in, .out = out, .type = TensorType::kQ4_0});
    ASSERT_EQ(outcomes.status().code(), absl::StatusCode::kInvalidArgument);
    const std::string message(outcomes.status().message());
    EXPECT_NE(message.find(in + ": tensor token_embd.weight at "), std::string::npos) << message;
    EXPECT_NE(message.find("element 12345 is "), std::string::npos) << message;
    EXPECT_NE(message.find("Q4_0 cannot hold"), std::string::npos) << message;
    EXPECT_EQ(ReadAll(out), "what was there");
    EXPECT_FALSE(Exists(out + ".partial"));
  }
}

TEST(QuantizeFileTest, MalformedFilesAreRefused) {
  const std::string in = PathOf("whole.gguf"), cut = PathOf("cut.gguf"), out = PathOf("no.gguf");
  WriteSource(in, 32);
  const std::string bytes = ReadAll(in);
  for (const size_t size : {size_t{0}, size_t{3}, size_t{100}, bytes.size() / 2}) {
    std::ofstream(cut, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(size));
    const auto outcomes = QuantizeFile({.in = cut, .out = out, .type = TensorType::kQ8_0});
    EXPECT_EQ(outcomes.status().code(), absl::StatusCode::kInvalidArgument) << outcomes.status();
    EXPECT_NE(outcomes.status().message().find(cut), absl::string_view::npos);
    EXPECT_FALSE(Exists(out));
  }
  EXPECT_EQ(
      QuantizeFile({.in = PathOf("none"), .out = out, .type = TensorType::kQ8_0}).status().code(),
      absl::StatusCode::kNotFound);
  EXPECT_EQ(QuantizeFile({.in = in, .out = out, .type = TensorType::kIQ1_S}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(QuantizeFile({.in = in, .out = PathOf("none/x"), .type = TensorType::kQ8_0}).ok());
}

TEST(QuantizeFileTest, IntermediateTypesAreRefused) {
  const std::string in = PathOf("q8_1.gguf");
  GgufWriter writer;
  ASSERT_TRUE(writer.AddTensor("strange.weight", {32, 2}, TensorType::kQ8_1).ok());
  ASSERT_TRUE(writer.Write(in, 1, [](size_t, uint64_t, uint64_t, uint8_t*) {}).ok());
  const auto outcomes =
      QuantizeFile({.in = in, .out = PathOf("none.gguf"), .type = TensorType::kQ8_0});
  EXPECT_EQ(outcomes.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_NE(outcomes.status().message().find("strange.weight"), absl::string_view::npos);
}

TEST(QuantizeFileTest, UnknownTypesAreRefused) {
  const std::string in = PathOf("unknown.gguf");
  std::ofstream(in) << gguf::GgufBuilder()
                           .RawTensor("strange.weight", {32, 2}, 142, 0)
                           .Data(std::string(64, 'x'))
                           .Build();
  const auto outcomes =
      QuantizeFile({.in = in, .out = PathOf("none.gguf"), .type = TensorType::kQ8_0});
  EXPECT_EQ(outcomes.status().code(), absl::StatusCode::kUnimplemented);
  const std::string message(outcomes.status().message());
  EXPECT_NE(message.find("strange.weight"), std::string::npos) << message;
  EXPECT_NE(message.find("type 142"), std::string::npos) << message;
}

TEST(QuantizeFileTest, EmptyTensorsStayEmpty) {
  const std::string in = PathOf("empty.gguf"), out = PathOf("still_empty.gguf");
  GgufWriter writer;
  ASSERT_TRUE(writer.AddTensor("none.weight", {0}, TensorType::kF32).ok());
  ASSERT_TRUE(writer.AddTensor("no_rows.weight", {64, 0}, TensorType::kF16).ok());
  ASSERT_TRUE(writer.Write(in, 1, [](size_t, uint64_t, uint64_t, uint8_t*) {}).ok());
  const auto outcomes = QuantizeFile({.in = in, .out = out, .type = TensorType::kQ8_0});
  ASSERT_TRUE(outcomes.ok()) << outcomes.status();
  const gguf::GgufFile file = Parsed(ReadAll(out));
  ASSERT_EQ(file.tensors.size(), 2u);
  EXPECT_EQ(file.tensors[0].dimensions, (std::vector<uint64_t>{0}));
  EXPECT_EQ(file.tensors[1].dimensions, (std::vector<uint64_t>{64, 0}));
  for (const gguf::TensorEntry& tensor : file.tensors) EXPECT_EQ(tensor.bytes, 0u);
}

}  // namespace
}  // namespace gguf_offload

// Files written by the GGUF project's own Python package; the expected values were read out of them
// with a few lines of Python's struct module.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "weightd/gguf/gguf_file.h"
#include "weightd/gguf/testing/fenced_bytes.h"

namespace gguf_offload::gguf {
namespace {

using quant::TensorType;

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << path;
  return {std::istreambuf_iterator<char>(in), {}};
}

GgufFile ParseGolden(const std::string& name) {
  const std::string path = "tests/testdata/golden/" + name;
  const FencedBytes bytes(ReadFile(path));
  auto parsed = ParseGguf(bytes.bytes(), path);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  return parsed.ok() ? *std::move(parsed) : GgufFile();
}

void ExpectTensor(const GgufFile& file, std::string_view name, TensorType type,
                  const std::vector<uint64_t>& dimensions, uint64_t data_offset, uint64_t bytes) {
  const TensorEntry* tensor = file.FindTensor(name);
  ASSERT_NE(tensor, nullptr) << name;
  EXPECT_EQ(tensor->type, type) << name;
  EXPECT_EQ(tensor->dimensions, dimensions) << name;
  EXPECT_EQ(tensor->offset, file.data_offset + data_offset) << name;
  EXPECT_EQ(tensor->bytes, bytes) << name;
}

size_t ArraySize(const GgufFile& file, std::string_view key) {
  return std::get<Array>(file.Find(key)->data).size();
}

TEST(GgufGolden, LlamaKq) {
  const GgufFile file = ParseGolden("models/llama-kq.gguf");
  ASSERT_EQ(file.tensors.size(), 21u);
  EXPECT_EQ(file.metadata.size(), 23u);
  EXPECT_EQ(file.version, 3u);
  EXPECT_EQ(file.data_offset, 13152u);  // the header's 13146 bytes, padded
  EXPECT_EQ(*file.FindString("general.architecture"), "llama");
  EXPECT_EQ(file.FindUnsigned("llama.embedding_length"), 256u);
  EXPECT_EQ(file.FindUnsigned("llama.attention.head_count_kv"), 2u);
  EXPECT_EQ(std::get<double>(file.Find("llama.rope.freq_base")->data), 10000.0);
  EXPECT_EQ(std::get<double>(file.Find("llama.attention.layer_norm_rms_epsilon")->data), 1e-5f);
  EXPECT_EQ(std::get<bool>(file.Find("tokenizer.ggml.add_bos_token")->data), true);
  EXPECT_EQ(ArraySize(file, "tokenizer.ggml.tokens"), 512u);
  EXPECT_EQ(ArraySize(file, "tokenizer.ggml.merges"), 253u);
  const auto& tokens = std::get<Array>(file.Find("tokenizer.ggml.tokens")->data);
  EXPECT_EQ(std::get<std::vector<std::string>>(tokens.elements)[0], "\xc4\x80");
  EXPECT_EQ(std::get<Array>(file.Find("tokenizer.ggml.token_type")->data).element_type,
            ValueType::kInt32);
  ExpectTensor(file, "token_embd.weight", TensorType::kQ4_K, {256, 512}, 0, 73728);
  ExpectTensor(file, "blk.0.attn_norm.weight", TensorType::kF32, {256}, 73728, 1024);
  ExpectTensor(file, "blk.0.attn_v.weight", TensorType::kQ3_K, {256, 128}, 152064, 14080);
  ExpectTensor(file, "blk.1.ffn_down.weight", TensorType::kQ2_K, {512, 256}, 718592, 43008);
  ExpectTensor(file, "output.weight", TensorType::kQ4_K, {256, 512}, 762624, 73728);
}

TEST(GgufGolden, OtherArchitectures) {
  const GgufFile deepseek = ParseGolden("models/deepseek2-split.gguf");
  EXPECT_EQ(deepseek.tensors.size(), 34u);
  EXPECT_EQ(deepseek.metadata.size(), 41u);
  ExpectTensor(deepseek, "token_embd.weight", TensorType::kIQ1_S, {256, 512}, 0, 25600);
  const GgufFile oss = ParseGolden("models/gpt-oss-mx.gguf");
  EXPECT_EQ(oss.tensors.size(), 41u);
  ExpectTensor(oss, "token_embd.weight", TensorType::kMXFP4, {256, 512}, 0, 69632);
  ExpectTensor(oss, "output.weight", TensorType::kQ8_0, {256, 512}, 1371264, 139264);
  const GgufFile qwen = ParseGolden("models/qwen2-legacy.gguf");
  EXPECT_EQ(qwen.tensors.size(), 26u);
  ExpectTensor(qwen, "blk.1.ffn_down.weight", TensorType::kF16, {384, 128}, 416768, 98304);
}

TEST(GgufGolden, VocabularyOnly) {
  const GgufFile bpe = ParseGolden("tokenizers/tiny-bpe.gpt-2.gguf");
  EXPECT_TRUE(bpe.tensors.empty());
  EXPECT_EQ(bpe.metadata.size(), 10u);
  EXPECT_EQ(ArraySize(bpe, "tokenizer.ggml.tokens"), 2538u);
  EXPECT_EQ(ArraySize(bpe, "tokenizer.ggml.merges"), 2278u);
  const GgufFile spm = ParseGolden("tokenizers/tiny-spm.gguf");
  EXPECT_EQ(ArraySize(spm, "tokenizer.ggml.scores"), 2398u);
  EXPECT_EQ(std::get<Array>(spm.Find("tokenizer.ggml.scores")->data).element_type,
            ValueType::kFloat32);
}

// What these have that a tokenizer may stumble over is served as it is.
TEST(GgufGolden, OddVocabularies) {
  const GgufFile scores = ParseGolden("cases/vocab-int-scores.gguf");
  EXPECT_EQ(ArraySize(scores, "tokenizer.ggml.scores"), 768u);
  EXPECT_EQ(std::get<Array>(scores.Find("tokenizer.ggml.scores")->data).element_type,
            ValueType::kInt32);
  const GgufFile types = ParseGolden("cases/vocab-longer-types.gguf");
  EXPECT_EQ(ArraySize(types, "tokenizer.ggml.tokens"), 768u);
  EXPECT_EQ(ArraySize(types, "tokenizer.ggml.token_type"), 800u);
  const GgufFile id = ParseGolden("cases/vocab-id-eot-out-of-range.gguf");
  EXPECT_EQ(std::get<uint64_t>(id.Find("tokenizer.ggml.eot_token_id")->data), 0xFFFFFFFFu);
  const GgufFile bos = ParseGolden("cases/vocab-add-bos-no-id.gguf");
  EXPECT_EQ(std::get<bool>(bos.Find("tokenizer.ggml.add_bos_token")->data), true);
  EXPECT_EQ(bos.Find("tokenizer.ggml.bos_token_id"), nullptr);
}

// The writer packs tensors tightly in order, so the computed sizes have to meet its offsets.
TEST(GgufGolden, SizesMeetOffsetsInAllModels) {
  int models = 0;
  for (const auto& entry : std::filesystem::directory_iterator("tests/testdata/golden/models")) {
    if (entry.path().extension() != ".gguf") continue;
    ++models;
    const GgufFile file = ParseGolden("models/" + entry.path().filename().string());
    uint64_t next = file.data_offset;
    for (const TensorEntry& tensor : file.tensors) {
      EXPECT_EQ(tensor.offset, next) << entry.path() << " " << tensor.name;
      next = (tensor.offset + tensor.bytes + 31) / 32 * 32;
    }
    EXPECT_EQ(next, std::filesystem::file_size(entry.path())) << entry.path();
  }
  EXPECT_EQ(models, 14);
}

}  // namespace
}  // namespace gguf_offload::gguf

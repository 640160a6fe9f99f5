#include "kernels/quant/golden_blocks.h"

#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "nlohmann/json.hpp"

namespace gguf_offload::quant {
namespace {

constexpr char kFolder[] = "tests/testdata/golden/dequant/";

std::vector<uint8_t> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::vector<GoldenBlocks> ReadAll() {
  const std::vector<uint8_t> text = ReadFile(std::string(kFolder) + "index.json");
  const nlohmann::json index = nlohmann::json::parse(text.begin(), text.end());
  std::vector<GoldenBlocks> all;
  for (const auto& [name, entry] : index.items()) {
    GoldenBlocks golden{name,
                        entry.at("ggml_type"),
                        entry.at("block_elems"),
                        entry.at("block_bytes"),
                        ReadFile(kFolder + name + ".blocks"),
                        {}};
    const std::vector<uint8_t> bytes = ReadFile(kFolder + name + ".f32");
    golden.values.resize(bytes.size() / sizeof(float));
    memcpy(golden.values.data(), bytes.data(), bytes.size());
    all.push_back(std::move(golden));
  }
  return all;
}

}  // namespace

const std::vector<GoldenBlocks>& AllGoldenBlocks() {
  static const auto& all = *new std::vector<GoldenBlocks>(ReadAll());
  return all;
}

}  // namespace gguf_offload::quant

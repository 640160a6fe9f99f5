// libFuzzer target of the parser: any bytes give a file whose tensors lie inside it, or an error.
//
// Built by tests/fuzz.sh, as libFuzzer comes with clang only.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "weightd/gguf/gguf_file.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto parsed = gguf_offload::gguf::ParseGguf({data, size}, "fuzz.gguf");
  if (!parsed.ok()) {
    Require(parsed.status().message().size() < 2000);
    return 0;
  }
  Require(parsed->data_offset <= size);
  for (const auto& [key, value] : parsed->metadata) Require(parsed->Find(key) == &value);
  for (const auto& tensor : parsed->tensors) {
    Require(parsed->FindTensor(tensor.name) == &tensor);
    Require(tensor.offset >= parsed->data_offset && tensor.offset <= size);
    Require(tensor.bytes <= size - tensor.offset);
    Require((tensor.bytes == 0) == tensor.empty());
    Require(!tensor.dimensions.empty() && tensor.dimensions.size() <= 4);
  }
  return 0;
}

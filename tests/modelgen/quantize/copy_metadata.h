// Writes parsed GGUF metadata again.
#ifndef TESTS_MODELGEN_QUANTIZE_COPY_METADATA_H_
#define TESTS_MODELGEN_QUANTIZE_COPY_METADATA_H_

#include <string_view>

#include "tests/modelgen/gguf_writer.h"
#include "weightd/gguf/gguf_file.h"

namespace gguf_offload {

// Adds the key and its value, with the type that it had in the file.
void CopyMetadata(std::string_view key, const gguf::Value& value, GgufWriter* writer);

}  // namespace gguf_offload

#endif  // TESTS_MODELGEN_QUANTIZE_COPY_METADATA_H_

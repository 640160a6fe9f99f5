// Converts a GGUF file to another type of weights, tensor by tensor.
//
// Metadata are kept, but for general.file_type and general.quantization_version, which tell of the
// new type, and general.alignment, which moves to the end. Tensors keep their names, shapes and
// order. The input is mapped, and the output written piece by piece, so that a model need not fit
// into memory.
//
// The input may be quantized itself: what is converted then are the values that its blocks mean, so
// the result has lost what the first quantization lost and what the second one loses. Tensors that
// have the wanted type already are copied.
#ifndef TESTS_MODELGEN_QUANTIZE_QUANTIZE_FILE_H_
#define TESTS_MODELGEN_QUANTIZE_QUANTIZE_FILE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/quant/format.h"

namespace gguf_offload {

struct QuantizeOptions {
  std::string in;
  std::string out;  // replaced at the very end, so that it may be `in` and is never half-written
  quant::TensorType type = quant::TensorType::kQ8_0;
  // For token_embd.weight and output.weight, if they are to have another type.
  std::optional<quant::TensorType> embedding_type;
  int threads = 2;
};

// What became of one tensor.
struct QuantizedTensor {
  std::string name;
  quant::TensorType from;
  quant::TensorType to;
  uint64_t from_bytes;
  uint64_t to_bytes;
  std::string why_kept;  // why it has not the type that was asked for; empty if it has
};

// Error kinds: INVALID_ARGUMENT (a malformed file; a tensor with values that are not finite or too
// large, with the index of the first; a type that cannot be written), UNIMPLEMENTED (tensors of a
// type without values of its own), NOT_FOUND and others from the system. All name the file, and the
// tensor where one is at fault.
absl::StatusOr<std::vector<QuantizedTensor>> QuantizeFile(const QuantizeOptions& options);

}  // namespace gguf_offload

#endif  // TESTS_MODELGEN_QUANTIZE_QUANTIZE_FILE_H_

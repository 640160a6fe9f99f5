#include "tests/modelgen/quantize/quantize_file.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/quant/dequantize.h"
#include "tests/modelgen/gguf_writer.h"
#include "tests/modelgen/quantize/copy_metadata.h"
#include "tests/modelgen/quantize/mapped_input.h"
#include "tests/modelgen/quantize/quantize.h"
#include "weightd/gguf/gguf_file.h"

namespace gguf_offload {
namespace {

using quant::TensorType;

constexpr char kFileTypeKey[] = "general.file_type";
constexpr char kVersionKey[] = "general.quantization_version";
constexpr char kAlignmentKey[] = "general.alignment";
constexpr uint32_t kQuantizationVersion = 2;
constexpr uint64_t kPiece = 8192;  // elements converted at a time: a multiple of every block

std::string NameOf(TensorType type) { return std::string(quant::FormatOf(type).name); }

// The number for general.file_type (github.com/ggml-org/llama.cpp, enum llama_ftype) of a file
// whose matrices all have this type.
uint32_t FileTypeOf(TensorType type) {
  switch (type) {
    case TensorType::kF16:
      return 1;
    case TensorType::kQ4_0:
      return 2;
    case TensorType::kQ8_0:
      return 7;
    case TensorType::kQ2_K:
      return 10;
    case TensorType::kQ3_K:
      return 11;
    case TensorType::kQ4_K:
      return 14;
    case TensorType::kQ5_K:
      return 16;
    case TensorType::kQ6_K:
      return 18;
    case TensorType::kIQ4_NL:
      return 25;
    case TensorType::kIQ4_XS:
      return 30;
    case TensorType::kBF16:
      return 32;
    case TensorType::kMXFP4:
      return 38;
    default:
      return 0;
  }
}

bool HoldsNumbers(TensorType type) {
  switch (type) {
    case TensorType::kI8:
    case TensorType::kI16:
    case TensorType::kI32:
    case TensorType::kI64:
    case TensorType::kF64:
      return true;
    default:
      return false;
  }
}

// The type that `tensor` gets, and why if it is not the one asked for.
absl::StatusOr<std::pair<TensorType, std::string>> ChooseType(const gguf::TensorEntry& tensor,
                                                              const QuantizeOptions& options) {
  if (HoldsNumbers(tensor.type)) return std::make_pair(tensor.type, std::string("no weights"));
  const auto number = static_cast<uint32_t>(tensor.type);
  const quant::Format* format = quant::FindFormat(number);
  if (format == nullptr || !format->dequantizable) {
    return absl::UnimplementedError(
        absl::StrCat(options.in, ": tensor ", tensor.name, " at ", tensor.offset, ": type ",
                     format == nullptr ? absl::StrCat(number) : std::string(format->name),
                     " cannot be converted"));
  }
  TensorType wanted = options.type;
  if (tensor.name == "token_embd.weight" || tensor.name == "output.weight") {
    wanted = options.embedding_type.value_or(wanted);
  }
  if (wanted == TensorType::kF32) return std::make_pair(wanted, std::string());
  const auto keep = [](std::string why) {
    return std::make_pair(TensorType::kF32, std::move(why));
  };
  if (tensor.dimensions.size() == 1) return keep("one dimension");
  // Biases of experts have two dimensions, but no reader multiplies with them. Routers are small
  // and decide much; everybody keeps them as they are.
  if (!absl::EndsWith(tensor.name, ".weight")) return keep("not a weight");
  if (absl::EndsWith(tensor.name, ".ffn_gate_inp.weight")) return keep("router");
  const uint32_t block = quant::FormatOf(wanted).block_elements;
  if (tensor.dimensions[0] % block != 0) {
    return keep(absl::StrCat("rows of ", tensor.dimensions[0], " are no multiple of ", block));
  }
  return std::make_pair(wanted, std::string());
}

// The first error of several threads.
class FirstError {
 public:
  void Set(absl::Status status) {
    const std::lock_guard<std::mutex> lock(mutex_);
    status_.Update(status);
  }
  absl::Status Get() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return status_;
  }

 private:
  std::mutex mutex_;
  absl::Status status_;  // guarded by mutex_
};

// Makes the tensors' new bytes from the mapped file. Thread safe.
class Converter {
 public:
  Converter(const std::string& path, std::span<const uint8_t> file,
            const std::vector<gguf::TensorEntry>& tensors,
            const std::vector<QuantizedTensor>& outcomes)
      : path_(path), file_(file), tensors_(tensors), outcomes_(outcomes) {}

  // As GgufWriter::Fill.
  void Fill(size_t tensor, uint64_t block_begin, uint64_t block_end, uint8_t* out);

  absl::Status error() { return error_.Get(); }

 private:
  // The values [begin, end) of a tensor, for which `buffer` has room with two blocks more.
  const float* Values(const gguf::TensorEntry& tensor, uint64_t begin, uint64_t end,
                      std::vector<float>* buffer) const;

  const std::string& path_;
  const std::span<const uint8_t> file_;
  const std::vector<gguf::TensorEntry>& tensors_;
  const std::vector<QuantizedTensor>& outcomes_;
  FirstError error_;
};

const float* Converter::Values(const gguf::TensorEntry& tensor, uint64_t begin, uint64_t end,
                               std::vector<float>* buffer) const {
  const quant::Format& format = quant::FormatOf(tensor.type);
  const uint64_t block = format.block_elements;
  const uint64_t first = begin / block;
  const uint64_t last = (end + block - 1) / block;
  buffer->resize((last - first) * block);
  quant::Dequantize(tensor.type, file_.data() + tensor.offset + first * format.block_bytes,
                    (last - first) * block, buffer->data());
  return buffer->data() + (begin - first * block);
}

void Converter::Fill(size_t index, uint64_t block_begin, uint64_t block_end, uint8_t* out) {
  const gguf::TensorEntry& tensor = tensors_[index];
  const TensorType to = outcomes_[index].to;
  const quant::Format& format = quant::FormatOf(to);
  if (tensor.type == to) {
    std::memcpy(out, file_.data() + tensor.offset + block_begin * format.block_bytes,
                (block_end - block_begin) * format.block_bytes);
    return;
  }
  const uint64_t end = block_end * format.block_elements;
  std::vector<float> buffer;
  for (uint64_t at = block_begin * format.block_elements; at < end;) {
    const uint64_t count = std::min(kPiece, end - at);
    const float* values = Values(tensor, at, at + count, &buffer);
    const size_t bad = FindUnquantizable(to, values, count);
    if (bad != count) {
      error_.Set(absl::InvalidArgumentError(absl::StrCat(
          path_, ": tensor ", tensor.name, " at ", tensor.offset, ": element ", at + bad, " is ",
          values[bad], ", which ", std::string(format.name), " cannot hold")));
      return;
    }
    Quantize(to, values, count, out);
    out += quant::RowBytes(format, count);
    at += count;
  }
}

void CopyAllMetadata(const gguf::GgufFile& file, const QuantizeOptions& options,
                     GgufWriter* writer) {
  bool has_file_type = false;
  bool has_version = false;
  for (const auto& [key, value] : file.metadata) {
    if (key == kFileTypeKey) {
      has_file_type = true;
      writer->AddMetadata(key, FileTypeOf(options.type));
    } else if (key == kVersionKey) {
      has_version = true;
      writer->AddMetadata(key, kQuantizationVersion);
    } else if (key != kAlignmentKey || file.alignment == gguf::kDefaultAlignment) {
      CopyMetadata(key, value, writer);
    }
  }
  // Only a model's first file tells of the whole.
  if (file.FindUnsigned("split.no").value_or(0) > 0) return;
  if (!has_file_type) writer->AddMetadata(kFileTypeKey, FileTypeOf(options.type));
  if (!has_version) writer->AddMetadata(kVersionKey, kQuantizationVersion);
}

absl::Status CheckType(TensorType type) {
  if (CanQuantize(type)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("type ", NameOf(type), " cannot be written"));
}

}  // namespace

absl::StatusOr<std::vector<QuantizedTensor>> QuantizeFile(const QuantizeOptions& options) {
  if (absl::Status status = CheckType(options.type); !status.ok()) return status;
  if (absl::Status status = CheckType(options.embedding_type.value_or(options.type));
      !status.ok()) {
    return status;
  }
  absl::StatusOr<MappedInput> input = MappedInput::Open(options.in);
  if (!input.ok()) return input.status();
  absl::StatusOr<gguf::GgufFile> file = gguf::ParseGguf(input->bytes(), options.in);
  if (!file.ok()) return file.status();

  GgufWriter writer({.alignment = file->alignment});
  CopyAllMetadata(*file, options, &writer);
  std::vector<QuantizedTensor> outcomes;
  for (const gguf::TensorEntry& tensor : file->tensors) {
    absl::StatusOr<std::pair<TensorType, std::string>> type = ChooseType(tensor, options);
    if (!type.ok()) return type.status();
    absl::Status status = writer.AddTensor(tensor.name, tensor.dimensions, type->first);
    if (!status.ok()) {
      return absl::Status(status.code(), absl::StrCat(options.in, ": ", status.message()));
    }
    outcomes.push_back({tensor.name, tensor.type, type->first, tensor.bytes, 0, type->second});
  }
  absl::StatusOr<GgufLayout> layout = writer.Layout();
  if (!layout.ok()) return layout.status();
  for (size_t i = 0; i < outcomes.size(); ++i) outcomes[i].to_bytes = layout->tensors[i].bytes;

  const std::string partial = options.out + ".partial";
  Converter converter(options.in, input->bytes(), file->tensors, outcomes);
  absl::StatusOr<std::vector<std::string>> written =
      GgufWriter::Write(*layout, partial, std::max(1, options.threads),
                        [&](size_t tensor, uint64_t begin, uint64_t end, uint8_t* bytes) {
                          converter.Fill(tensor, begin, end, bytes);
                        });
  if (!written.ok()) return written.status();
  absl::Status status = converter.error();
  if (status.ok() && std::rename(partial.c_str(), options.out.c_str()) != 0) {
    status = absl::ErrnoToStatus(errno, absl::StrCat(options.out, ": cannot replace"));
  }
  if (!status.ok()) {
    unlink(partial.c_str());
    return status;
  }
  return outcomes;
}

}  // namespace gguf_offload

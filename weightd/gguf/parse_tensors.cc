// The tensor records of a GGUF header, and where the tensors lie.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/quant/format.h"
#include "weightd/gguf/gguf_file.h"
#include "weightd/gguf/header_parser.h"

namespace gguf_offload::gguf {

absl::Status HeaderParser::ReadTensors() {
  StartRecord();
  if (tensor_count_ > cursor_.remaining() / kMinTensorBytes) {
    return Ends("no room for ", tensor_count_, " tensors");
  }
  result_.tensors.reserve(tensor_count_);  // as with the keys, the index refers to the names
  result_.tensor_index_.reserve(tensor_count_);
  tensor_record_offsets_.reserve(tensor_count_);
  for (uint64_t i = 0; i < tensor_count_; ++i) {
    StartRecord();
    tensor_record_offsets_.push_back(record_offset_);
    TensorEntry& tensor = result_.tensors.emplace_back();
    if (absl::Status status = ReadTensor(&tensor); !status.ok()) return status;
    if (!result_.tensor_index_.emplace(tensor.name, i).second) {
      return Malformed("tensor ", Quoted(tensor.name), " occurs twice");
    }
  }
  return absl::OkStatus();
}

absl::Status HeaderParser::ReadTensor(TensorEntry* tensor) {
  if (absl::Status status = ReadName("tensor name", kMaxTensorNameBytes, &tensor->name);
      !status.ok()) {
    return status;
  }
  const std::string name = absl::StrCat("tensor ", Quoted(tensor->name));
  uint32_t dimension_count;
  if (!cursor_.Read(&dimension_count)) return Ends(name, ": no room for the dimensions' number");
  if (dimension_count < 1 || dimension_count > kMaxDimensions) {
    return Malformed(name, " has ", dimension_count, " dimensions instead of 1 to ",
                     kMaxDimensions);
  }
  tensor->dimensions.resize(dimension_count);
  if (!cursor_.ReadArray(dimension_count, tensor->dimensions.data())) {
    return Ends(name, ": no room for ", dimension_count, " dimensions");
  }
  uint32_t type;
  if (!cursor_.Read(&type)) return Ends(name, ": no room for the type");
  if (!cursor_.Read(&tensor->offset)) return Ends(name, ": no room for the offset");
  if (quant::FindFormat(type) == nullptr) {
    return Malformed(name, " is of type ", type, ", which is unknown or retired");
  }
  tensor->type = static_cast<quant::TensorType>(type);
  return SizeTensor(tensor);
}

// Computes the size in bytes from shape and type.
absl::Status HeaderParser::SizeTensor(TensorEntry* tensor) const {
  const quant::Format& format = quant::FormatOf(tensor->type);
  uint64_t elements = 1;
  for (size_t i = 0; i < tensor->dimensions.size(); ++i) {
    const uint64_t dimension = tensor->dimensions[i];
    if (dimension < 1 || dimension > kMaxDimension) {
      return Malformed("tensor ", Quoted(tensor->name), ": dimension ", i, " is ", dimension,
                       " instead of 1 to ", kMaxDimension);
    }
    if (__builtin_mul_overflow(elements, dimension, &elements)) {
      return Malformed("tensor ", Quoted(tensor->name), ": the number of elements wraps");
    }
  }
  if (tensor->dimensions[0] % format.block_elements != 0) {
    return Malformed("tensor ", Quoted(tensor->name), ": a row of ", tensor->dimensions[0],
                     " elements is not a multiple of the block of ", format.block_elements, " of ",
                     Text(format.name));
  }
  if (__builtin_mul_overflow(elements / format.block_elements, uint64_t{format.block_bytes},
                             &tensor->bytes)) {
    return Malformed("tensor ", Quoted(tensor->name), ": the number of bytes wraps");
  }
  return absl::OkStatus();
}

// Turns the offsets, so far relative to the data, into offsets in the file, and checks them.
absl::Status HeaderParser::PlaceTensors() {
  const uint64_t header_end = cursor_.offset();
  const uint64_t tail = header_end % result_.alignment;
  const uint64_t padding = tail == 0 ? 0 : result_.alignment - tail;
  if (padding > file_size_ - header_end) {
    // Files without tensors are often not padded.
    result_.data_offset = file_size_;
    if (result_.tensors.empty()) return absl::OkStatus();
    record_offset_ = header_end;
    return Malformed("the file ends before the tensor data");
  }
  result_.data_offset = header_end + padding;
  const uint64_t data_bytes = file_size_ - result_.data_offset;
  for (size_t i = 0; i < result_.tensors.size(); ++i) {
    TensorEntry& tensor = result_.tensors[i];
    record_offset_ = tensor_record_offsets_[i];
    if (tensor.offset % result_.alignment != 0) {
      return Malformed("tensor ", Quoted(tensor.name), ": its data offset ", tensor.offset,
                       " is not a multiple of the alignment ", result_.alignment);
    }
    if (tensor.offset > data_bytes || tensor.bytes > data_bytes - tensor.offset) {
      return Malformed("tensor ", Quoted(tensor.name), ": its ", tensor.bytes,
                       " bytes at data offset ", tensor.offset, " do not lie within the ",
                       data_bytes, " bytes of tensor data");
    }
    tensor.offset += result_.data_offset;  // <= file_size_, as just checked
  }
  return CheckOverlap();
}

absl::Status HeaderParser::CheckOverlap() const {
  const std::vector<TensorEntry>& tensors = result_.tensors;
  std::vector<uint32_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0);
  const auto by_offset = [&](uint32_t a, uint32_t b) {
    return tensors[a].offset < tensors[b].offset;
  };
  if (!std::is_sorted(order.begin(), order.end(), by_offset)) {
    std::sort(order.begin(), order.end(), by_offset);
  }
  for (size_t i = 1; i < order.size(); ++i) {
    const TensorEntry& before = tensors[order[i - 1]];
    const TensorEntry& tensor = tensors[order[i]];
    if (before.bytes > tensor.offset - before.offset) {
      return absl::InvalidArgumentError(absl::StrCat(
          file_name_, ": offset ", tensor_record_offsets_[order[i]], ": tensor ",
          Quoted(tensor.name), " at ", tensor.offset, " overlaps tensor ", Quoted(before.name),
          ", which has ", before.bytes, " bytes at ", before.offset));
    }
  }
  return absl::OkStatus();
}

}  // namespace gguf_offload::gguf

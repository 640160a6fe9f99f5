// The tensor records of a GGUF header, and where the tensors lie.
#include <algorithm>
#include <cstddef>
#include <cstdint>
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
  tensor->type = static_cast<quant::TensorType>(type);
  return SizeTensor(tensor);
}

// Computes the size in bytes from shape and type, if the type is known.
absl::Status HeaderParser::SizeTensor(TensorEntry* tensor) const {
  uint64_t elements = 1;
  bool wraps = false;
  for (size_t i = 0; i < tensor->dimensions.size(); ++i) {
    const uint64_t dimension = tensor->dimensions[i];
    if (dimension > kMaxDimension) {
      return Malformed("tensor ", Quoted(tensor->name), ": dimension ", i, " is ", dimension,
                       " instead of 0 to ", kMaxDimension);
    }
    wraps = __builtin_mul_overflow(elements, dimension, &elements) || wraps;
  }
  if (tensor->empty()) {
    elements = 0;
  } else if (wraps) {
    return Malformed("tensor ", Quoted(tensor->name), ": the number of elements wraps");
  }
  const quant::Format* format = quant::FindFormat(static_cast<uint32_t>(tensor->type));
  if (format == nullptr) return absl::OkStatus();
  if (tensor->dimensions[0] % format->block_elements != 0) {
    return Malformed("tensor ", Quoted(tensor->name), ": a row of ", tensor->dimensions[0],
                     " elements is not a multiple of the block of ", format->block_elements, " of ",
                     Text(format->name));
  }
  if (__builtin_mul_overflow(elements / format->block_elements, uint64_t{format->block_bytes},
                             &tensor->bytes)) {
    return Malformed("tensor ", Quoted(tensor->name), ": the number of bytes wraps");
  }
  return absl::OkStatus();
}

// Turns the offsets, so far relative to the data, into offsets in the file, and checks them.
absl::Status HeaderParser::PlaceTensors() {
  if (absl::Status status = FindData(); !status.ok()) return status;
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
  return SizeUnknownAndCheckOverlap();
}

// Where the data begins: behind the header's padding, which files without data often lack.
absl::Status HeaderParser::FindData() {
  const uint64_t header_end = cursor_.offset();
  const uint64_t tail = header_end % result_.alignment;
  const uint64_t padding = tail == 0 ? 0 : result_.alignment - tail;
  if (padding <= file_size_ - header_end) {
    result_.data_offset = header_end + padding;
    return absl::OkStatus();
  }
  result_.data_offset = file_size_;
  record_offset_ = header_end;
  const auto is_empty = [](const TensorEntry& tensor) { return tensor.empty(); };
  return std::all_of(result_.tensors.begin(), result_.tensors.end(), is_empty)
             ? absl::OkStatus()
             : Malformed("the file ends before the tensor data");
}

// Indices of the tensors that are not empty.
std::vector<uint32_t> HeaderParser::TensorsByOffset() const {
  const std::vector<TensorEntry>& tensors = result_.tensors;
  std::vector<uint32_t> order;
  order.reserve(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (!tensors[i].empty()) order.push_back(static_cast<uint32_t>(i));
  }
  const auto by_offset = [&](uint32_t a, uint32_t b) {
    return tensors[a].offset < tensors[b].offset;
  };
  if (!std::is_sorted(order.begin(), order.end(), by_offset)) {
    std::sort(order.begin(), order.end(), by_offset);
  }
  return order;
}

// Gives tensors of unknown type what lies up to the next tensor, which must be something.
absl::Status HeaderParser::SizeUnknownAndCheckOverlap() {
  const std::vector<uint32_t> order = TensorsByOffset();
  for (size_t i = 0; i < order.size(); ++i) {
    TensorEntry& tensor = result_.tensors[order[i]];
    const TensorEntry* next = i + 1 < order.size() ? &result_.tensors[order[i + 1]] : nullptr;
    const uint64_t room = (next == nullptr ? file_size_ : next->offset) - tensor.offset;
    if (quant::FindFormat(static_cast<uint32_t>(tensor.type)) == nullptr) {
      tensor.bytes = room;
      if (room > 0) continue;
      record_offset_ = tensor_record_offsets_[order[i]];
      return Malformed("tensor ", Quoted(tensor.name), " of unknown type ",
                       static_cast<uint32_t>(tensor.type), " has no bytes: at ", tensor.offset,
                       next == nullptr ? " the file ends"
                                       : absl::StrCat(" tensor ", Quoted(next->name), " begins"));
    }
    if (tensor.bytes <= room) continue;
    record_offset_ = tensor_record_offsets_[order[i + 1]];  // the last one's end has been checked
    return Malformed("tensor ", Quoted(next->name), " at ", next->offset, " overlaps tensor ",
                     Quoted(tensor.name), ", which has ", tensor.bytes, " bytes at ",
                     tensor.offset);
  }
  return absl::OkStatus();
}

}  // namespace gguf_offload::gguf

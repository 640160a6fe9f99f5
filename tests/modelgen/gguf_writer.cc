#include "tests/modelgen/gguf_writer.h"

#include <bit>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "tests/modelgen/shard_files.h"

namespace gguf_offload {
namespace {

constexpr uint32_t kVersion = 3;
constexpr uint32_t kDefaultAlignment = 32;
constexpr size_t kMaxDimensions = 4;

uint64_t Align(uint64_t bytes, uint64_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

template <typename T>
void AppendPair(std::string_view key, const T& value, std::string* out) {
  AppendGgufString(key, out);
  AppendGgufTyped(value, out);
}

}  // namespace

uint64_t GgufLayout::file_bytes() const {
  uint64_t bytes = 0;
  for (const GgufShard& shard : shards) bytes += shard.file_bytes();
  return bytes;
}

absl::Status GgufWriter::AddTensor(std::string_view name, const std::vector<uint64_t>& dims,
                                   quant::TensorType type) {
  // This Abseil has a string view of its own.
  const std::string where = "tensor " + std::string(name) + ": ";
  const quant::Format* format = quant::FindFormat(static_cast<uint32_t>(type));
  if (format == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, "unknown type ", static_cast<uint32_t>(type)));
  }
  if (dims.empty() || dims.size() > kMaxDimensions) {
    return absl::InvalidArgumentError(absl::StrCat(where, dims.size(), " dimensions"));
  }
  if (dims[0] % format->block_elements != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        where, dims[0], " columns are not a multiple of the block of ", std::string(format->name)));
  }
  uint64_t blocks = dims[0] / format->block_elements;
  const uint64_t most = std::numeric_limits<uint64_t>::max() / 2 / format->block_bytes;
  for (size_t i = 1; i < dims.size(); ++i) {
    if (dims[i] != 0 && blocks > most / dims[i]) {
      return absl::InvalidArgumentError(absl::StrCat(where, "too large"));
    }
    blocks *= dims[i];
  }
  tensors_.push_back(GgufTensor{std::string(name), dims, type, blocks, blocks * format->block_bytes,
                                /*shard=*/0, /*offset=*/0});
  return absl::OkStatus();
}

std::string GgufWriter::Header(const std::vector<GgufTensor>& tensors, uint32_t shard,
                               uint32_t shards) const {
  std::string body;
  uint64_t metadata_count = 0;
  if (shard == 0) {
    body = metadata_;
    metadata_count = metadata_count_;
  }
  if (options_.alignment != kDefaultAlignment) {
    AppendPair("general.alignment", options_.alignment, &body);
    ++metadata_count;
  }
  if (options_.shard_bytes != 0) {
    AppendPair("split.no", static_cast<uint16_t>(shard), &body);
    AppendPair("split.count", static_cast<uint16_t>(shards), &body);
    AppendPair("split.tensors.count", static_cast<int32_t>(tensors.size()), &body);
    metadata_count += 3;
  }
  uint64_t tensor_count = 0;
  for (const GgufTensor& tensor : tensors) {
    if (tensor.shard != shard) continue;
    ++tensor_count;
    AppendGgufString(tensor.name, &body);
    AppendGgufScalar<uint32_t>(tensor.dims.size(), &body);
    for (const uint64_t dim : tensor.dims) AppendGgufScalar<uint64_t>(dim, &body);
    AppendGgufScalar<uint32_t>(static_cast<uint32_t>(tensor.type), &body);
    AppendGgufScalar<uint64_t>(tensor.offset, &body);
  }
  std::string header = "GGUF";
  AppendGgufScalar<uint32_t>(kVersion, &header);
  AppendGgufScalar<uint64_t>(tensor_count, &header);
  AppendGgufScalar<uint64_t>(metadata_count, &header);
  header.append(body);
  header.resize(Align(header.size(), options_.alignment), '\0');
  return header;
}

absl::StatusOr<GgufLayout> GgufWriter::Layout() const {
  if (!std::has_single_bit(options_.alignment)) {
    return absl::InvalidArgumentError(
        absl::StrCat("alignment ", options_.alignment, " is not a power of two"));
  }
  GgufLayout layout;
  layout.tensors = tensors_;
  std::vector<uint64_t> data_bytes(1, 0);
  if (options_.shard_bytes != 0 && options_.metadata_shard) data_bytes.push_back(0);
  for (GgufTensor& tensor : layout.tensors) {
    const uint64_t bytes = Align(tensor.bytes, options_.alignment);
    if (options_.shard_bytes != 0 && data_bytes.back() != 0 &&
        (data_bytes.back() > options_.shard_bytes ||
         bytes > options_.shard_bytes - data_bytes.back())) {
      data_bytes.push_back(0);
    }
    tensor.shard = static_cast<uint32_t>(data_bytes.size() - 1);
    tensor.offset = data_bytes.back();
    data_bytes.back() += bytes;
  }
  if (data_bytes.size() > std::numeric_limits<uint16_t>::max()) {
    return absl::InvalidArgumentError(absl::StrCat(data_bytes.size(), " shards are too many"));
  }
  for (uint32_t shard = 0; shard < data_bytes.size(); ++shard) {
    layout.shards.push_back(
        GgufShard{Header(layout.tensors, shard, data_bytes.size()), data_bytes[shard]});
  }
  return layout;
}

std::string GgufWriter::ShardPath(std::string_view path, size_t index, size_t count) {
  if (count == 1) return std::string(path);
  return absl::StrFormat("%s-%05d-of-%05d.gguf",
                         absl::StripSuffix(absl::string_view(path.data(), path.size()), ".gguf"),
                         index + 1, count);
}

absl::StatusOr<std::vector<std::string>> GgufWriter::Write(const GgufLayout& layout,
                                                           const std::string& path, int threads,
                                                           const Fill& fill) {
  std::vector<std::string> paths;
  for (size_t shard = 0; shard < layout.shards.size(); ++shard) {
    paths.push_back(ShardPath(path, shard, layout.shards.size()));
  }
  if (absl::Status status = WriteShardFiles(layout, paths, threads, fill); !status.ok()) {
    return status;
  }
  return paths;
}

absl::StatusOr<std::vector<std::string>> GgufWriter::Write(const std::string& path, int threads,
                                                           const Fill& fill) const {
  absl::StatusOr<GgufLayout> layout = Layout();
  if (!layout.ok()) return layout.status();
  return Write(*layout, path, threads, fill);
}

}  // namespace gguf_offload

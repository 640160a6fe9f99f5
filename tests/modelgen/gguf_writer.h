// Writes GGUF files (version 3, little-endian) from scratch, in parallel and split over shards.
//
// The format is that of github.com/ggml-org/ggml, docs/gguf.md: a header, metadata, the
// descriptions of the tensors, then the tensors' data, each tensor at a multiple of the alignment
// counted from the start of the data. A model split over shards follows the convention of
// llama.cpp's gguf-split: PREFIX-00001-of-0000N.gguf, each shard with the keys split.no,
// split.count and split.tensors.count, and all other metadata in the first shard only.
#ifndef TESTS_MODELGEN_GGUF_WRITER_H_
#define TESTS_MODELGEN_GGUF_WRITER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/quant/format.h"
#include "tests/modelgen/gguf_value.h"

namespace gguf_offload {

// A tensor and where it lies. `shard`, `offset` and `bytes` are known once the layout is.
struct GgufTensor {
  std::string name;
  std::vector<uint64_t> dims;  // columns first, as the file has them
  quant::TensorType type;
  uint64_t blocks = 0;  // blocks in all
  uint64_t bytes = 0;
  uint32_t shard = 0;
  uint64_t offset = 0;  // from the start of the shard's data
};

// One file of the model.
struct GgufShard {
  std::string header;       // everything before the data, padded to the alignment
  uint64_t data_bytes = 0;  // with the padding after each tensor
  uint64_t file_bytes() const { return header.size() + data_bytes; }
};

// Where everything goes; what Write() writes.
struct GgufLayout {
  std::vector<GgufTensor> tensors;  // in the order they were added
  std::vector<GgufShard> shards;    // at least one
  uint64_t file_bytes() const;      // of all shards together
};

struct GgufWriterOptions {
  uint32_t alignment =
      32;  // a power of two; other values than 32 are recorded in general.alignment
  // Begin a new shard rather than let a shard's data exceed this; a larger tensor gets a shard of
  // its own. 0: one file, without split.* keys.
  uint64_t shard_bytes = 0;
  bool metadata_shard = false;  // with shard_bytes: the first shard holds no tensors
};

// Collects metadata and tensors, computes the layout and writes the files. Owns what it is given.
// Not thread safe, though Write() itself uses many threads.
class GgufWriter {
 public:
  explicit GgufWriter(const GgufWriterOptions& options = {}) : options_(options) {}

  // Fills `bytes` with the blocks [block_begin, block_end) of tensors[tensor]; the span is exactly
  // that long. Called from many threads at once, in no particular order, once for each block.
  using Fill =
      std::function<void(size_t tensor, uint64_t block_begin, uint64_t block_end, uint8_t* bytes)>;

  // Any number type of GGUF, bool, string, or a vector of one of these (or of vectors): the C++
  // type says which, so write uint32_t{7}, not 7. Keys are not checked for duplicates, so that
  // tests may write bad files.
  template <typename T>
  void AddMetadata(std::string_view key, const T& value) {
    ++metadata_count_;
    AppendGgufString(key, &metadata_);
    AppendGgufTyped(value, &metadata_);
  }

  // `dims` are columns first; the columns must be a multiple of the type's block.
  absl::Status AddTensor(std::string_view name, const std::vector<uint64_t>& dims,
                         quant::TensorType type);

  // The layout of what was added so far.
  absl::StatusOr<GgufLayout> Layout() const;

  // Writes `layout` to `path` (one shard) or to the names that ShardPath() gives, replacing what is
  // there, and returns the paths. The files' bytes do not depend on `threads` (>= 1) if `fill` does
  // not. Nothing is left behind after an error.
  static absl::StatusOr<std::vector<std::string>> Write(const GgufLayout& layout,
                                                        const std::string& path, int threads,
                                                        const Fill& fill);

  // Layout() and Write() in one.
  absl::StatusOr<std::vector<std::string>> Write(const std::string& path, int threads,
                                                 const Fill& fill) const;

  // The path of shard `index` (from 0) of `count`: "dir/name.gguf" ->
  // "dir/name-00001-of-00003.gguf".
  static std::string ShardPath(std::string_view path, size_t index, size_t count);

 private:
  std::string Header(const std::vector<GgufTensor>& tensors, uint32_t shard, uint32_t shards) const;

  GgufWriterOptions options_;
  uint64_t metadata_count_ = 0;
  std::string metadata_;  // serialized
  std::vector<GgufTensor> tensors_;
};

}  // namespace gguf_offload

#endif  // TESTS_MODELGEN_GGUF_WRITER_H_

#include "tests/modelgen/shard_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/threading/thread_pool.h"

namespace gguf_offload {
namespace {

// Data a thread generates before it writes: small enough to stay in the second-level cache between
// the two, large enough that the system call does not matter.
constexpr uint64_t kChunkBytes = 512 * 1024;

// A file being written: removed again unless Commit() is reached. Owns the descriptor.
class OutputFile {
 public:
  static absl::StatusOr<OutputFile> Create(const std::string& path, uint64_t bytes) {
    // A file that others may have mapped must not be cut under them: give the path a new inode.
    if (unlink(path.c_str()) != 0 && errno != ENOENT) {
      return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot replace"));
    }
    const int descriptor = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (descriptor < 0) return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot create"));
    OutputFile file(path, descriptor);
    if (ftruncate(descriptor, static_cast<off_t>(bytes)) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot extend to ", bytes));
    }
    return file;
  }

  OutputFile(OutputFile&& other) noexcept
      : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}
  OutputFile& operator=(OutputFile&&) = delete;
  ~OutputFile() {
    if (descriptor_ < 0) return;
    close(descriptor_);
    unlink(path_.c_str());
  }

  absl::Status WriteAt(const void* data, uint64_t bytes, uint64_t offset) const {
    const char* next = static_cast<const char*>(data);
    while (bytes > 0) {
      const ssize_t written = pwrite(descriptor_, next, bytes, static_cast<off_t>(offset));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) {
        return absl::ErrnoToStatus(written < 0 ? errno : EIO,
                                   absl::StrCat(path_, ": cannot write at ", offset));
      }
      next += written;
      bytes -= static_cast<uint64_t>(written);
      offset += static_cast<uint64_t>(written);
    }
    return absl::OkStatus();
  }

  absl::Status Commit() {
    if (close(std::exchange(descriptor_, -1)) == 0) return absl::OkStatus();
    const int error = errno;
    unlink(path_.c_str());
    return absl::ErrnoToStatus(error, absl::StrCat(path_, ": cannot close"));
  }

 private:
  OutputFile(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}

  std::string path_;
  int descriptor_;
};

struct Chunk {
  size_t tensor;
  uint64_t block_begin;
  uint64_t block_end;
};

std::vector<Chunk> CutIntoChunks(const GgufLayout& layout) {
  std::vector<Chunk> chunks;
  for (size_t i = 0; i < layout.tensors.size(); ++i) {
    const GgufTensor& tensor = layout.tensors[i];
    const uint64_t blocks_a_chunk = kChunkBytes / quant::FormatOf(tensor.type).block_bytes;
    for (uint64_t begin = 0; begin < tensor.blocks; begin += blocks_a_chunk) {
      chunks.push_back(Chunk{i, begin, std::min(tensor.blocks, begin + blocks_a_chunk)});
    }
  }
  return chunks;
}

}  // namespace

absl::Status WriteShardFiles(const GgufLayout& layout, const std::vector<std::string>& paths,
                             int threads, const GgufWriter::Fill& fill) {
  std::vector<OutputFile> files;
  for (size_t i = 0; i < layout.shards.size(); ++i) {
    const GgufShard& shard = layout.shards[i];
    absl::StatusOr<OutputFile> file = OutputFile::Create(paths[i], shard.file_bytes());
    if (!file.ok()) return file.status();
    files.push_back(*std::move(file));
    absl::Status status = files.back().WriteAt(shard.header.data(), shard.header.size(), 0);
    if (!status.ok()) return status;
  }

  const std::vector<Chunk> chunks = CutIntoChunks(layout);
  std::vector<std::vector<uint8_t>> buffers(threads);
  std::mutex mutex;
  absl::Status first_error;
  std::atomic<bool> failed = false;
  ThreadPool pool(threads);
  pool.ParallelFor(chunks.size(), [&](size_t task, int thread) {
    if (failed.load(std::memory_order_relaxed)) return;
    const Chunk& chunk = chunks[task];
    const GgufTensor& tensor = layout.tensors[chunk.tensor];
    const uint64_t block_bytes = quant::FormatOf(tensor.type).block_bytes;
    std::vector<uint8_t>& buffer = buffers[thread];
    if (buffer.empty()) buffer.resize(kChunkBytes);
    fill(chunk.tensor, chunk.block_begin, chunk.block_end, buffer.data());
    absl::Status status = files[tensor.shard].WriteAt(
        buffer.data(), (chunk.block_end - chunk.block_begin) * block_bytes,
        layout.shards[tensor.shard].header.size() + tensor.offset +
            chunk.block_begin * block_bytes);
    if (status.ok()) return;
    failed.store(true, std::memory_order_relaxed);
    const std::lock_guard<std::mutex> lock(mutex);
    first_error.Update(status);
  });
  if (!first_error.ok()) return first_error;
  for (OutputFile& file : files) first_error.Update(file.Commit());
  if (!first_error.ok()) {
    for (const std::string& path : paths) unlink(path.c_str());
  }
  return first_error;
}

}  // namespace gguf_offload

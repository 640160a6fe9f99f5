#include "computed/prefetch/parallel_copy_reader.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <deque>
#include <optional>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "computed/prefetch/streaming_copy.h"

namespace gguf_offload {
namespace {

constexpr int kDefaultThreads = 8;
constexpr int kMaxThreads = 256;

void CachedCopy(uint8_t* destination, const uint8_t* source, size_t bytes) {
  std::memcpy(destination, source, bytes);
}

// All threads take pieces of the oldest read that has any left.
class ParallelCopyReader final : public HostReader {
 public:
  ParallelCopyReader(const WeightSource& source, int threads, const ParallelCopyOptions& options)
      : source_(source),
        piece_bytes_(options.piece_bytes),
        copy_(options.around_caches ? &StreamingCopy : &CachedCopy) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Run(); });
  }
  ~ParallelCopyReader() override {
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
    }
    for (std::thread& thread : threads_) thread.join();
  }

  absl::string_view name() const override { return "parallel copy"; }

  void ReadAsync(std::vector<Range> ranges, absl::Time deadline,
                 std::function<void(absl::Status)> done) override {
    absl::Status status = CheckRanges(source_.manifest(), ranges);
    std::erase_if(ranges, [](const Range& range) { return range.bytes == 0; });
    if (!status.ok() || ranges.empty()) {
      done(std::move(status));
      return;
    }
    auto read = std::make_shared<Read>();
    read->ranges = std::move(ranges);
    read->deadline = deadline;
    read->done = std::move(done);
    absl::MutexLock lock(&mutex_);
    waiting_.push_back(std::move(read));
  }

 private:
  // Guarded by the reader's mutex, but for `done`.
  struct Read {
    std::vector<Range> ranges;
    absl::Time deadline;
    std::function<void(absl::Status)> done;
    size_t range = 0;       // the next piece begins in this one,
    uint64_t position = 0;  // so many bytes from its start
    int under_way = 0;      // pieces being copied
    absl::Status status;
  };
  struct Piece {
    std::shared_ptr<Read> read;
    Range range;
  };

  // Waits for work; nothing when there will be none any more.
  std::optional<Piece> TakePiece() {
    absl::MutexLock lock(&mutex_);
    const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
      return stopping_ || !waiting_.empty();
    };
    mutex_.Await(absl::Condition(&ready));
    if (waiting_.empty()) return std::nullopt;
    const std::shared_ptr<Read> read = waiting_.front();
    const Range& range = read->ranges[read->range];
    const uint64_t offset = range.offset + read->position;
    // Pieces end at multiples of their size, so that threads share no cache line of the
    // destination.
    const uint64_t bytes =
        std::min(range.bytes - read->position, piece_bytes_ - offset % piece_bytes_);
    const Piece piece = {read, {range.shard, offset, bytes, range.destination + read->position}};
    ++read->under_way;
    read->position += bytes;
    if (read->position == range.bytes) {
      read->position = 0;
      if (++read->range == read->ranges.size()) waiting_.pop_front();
    }
    return piece;
  }

  // Returns the read if that was the last of it.
  std::shared_ptr<Read> FinishPiece(Piece piece, const absl::Status& status) {
    Read& read = *piece.read;
    absl::MutexLock lock(&mutex_);
    --read.under_way;
    read.status.Update(status);
    if (!read.status.ok() && read.range < read.ranges.size()) {
      // What is left is not worth copying.
      read.range = read.ranges.size();
      std::erase(waiting_, piece.read);
    }
    if (read.under_way > 0 || read.range < read.ranges.size()) return nullptr;
    return std::move(piece.read);
  }

  void Run() {
    while (std::optional<Piece> piece = TakePiece()) {
      absl::Status status;
      if (absl::Now() >= piece->read->deadline) {
        status = absl::DeadlineExceededError(absl::StrCat("shard ", piece->range.shard,
                                                          " at offset ", piece->range.offset,
                                                          ": the copy was not done in time"));
      } else {
        copy_(piece->range.destination,
              source_.MappedShard(piece->range.shard) + piece->range.offset, piece->range.bytes);
      }
      if (const std::shared_ptr<Read> read = FinishPiece(*std::move(piece), status)) {
        // After the bytes have been read: now it is known whether they were the file's.
        if (read->status.ok()) read->status = source_.CheckIntact();
        read->done(std::move(read->status));
      }
    }
  }

  const WeightSource& source_;
  const uint64_t piece_bytes_;
  void (*const copy_)(uint8_t* destination, const uint8_t* source, size_t bytes);
  absl::Mutex mutex_;
  std::deque<std::shared_ptr<Read>> waiting_ ABSL_GUARDED_BY(mutex_);  // with pieces left
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HostReader>> NewParallelCopyReader(
    const WeightSource& source, const ParallelCopyOptions& options) {
  if (options.threads < 0 || options.threads > kMaxThreads) {
    return absl::InvalidArgumentError(
        absl::StrCat("copying with ", options.threads, " threads, at most ", kMaxThreads));
  }
  if (!std::has_single_bit(options.piece_bytes) || options.piece_bytes < HostReader::kAlignment) {
    return absl::InvalidArgumentError(
        absl::StrCat("copying in pieces of ", options.piece_bytes, " bytes"));
  }
  if (source.manifest().shards_size() == 0 || source.MappedShard(0) == nullptr) {
    return absl::FailedPreconditionError("a source that streams has nothing to copy from");
  }
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const int threads = options.threads > 0 ? options.threads : std::min(cores, kDefaultThreads);
  return std::make_unique<ParallelCopyReader>(source, threads, options);
}

}  // namespace gguf_offload

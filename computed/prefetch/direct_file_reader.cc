#include "computed/prefetch/direct_file_reader.h"

#include <liburing.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <list>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "computed/prefetch/direct_file.h"
#include "computed/prefetch/io_ring.h"

namespace gguf_offload {
namespace {

constexpr int kMaxQueueDepth = 1024;
constexpr uint64_t kMaxPieceBytes = 1 << 30;

class DirectFileReader final : public HostReader {
 public:
  DirectFileReader(const WeightSource& source, const DirectFileOptions& options)
      : source_(source),
        piece_bytes_(options.piece_bytes),
        pieces_(static_cast<size_t>(options.queue_depth)) {
    for (Piece& piece : pieces_) idle_.push_back(&piece);
  }
  absl::Status Initialize(bool past_the_cache);
  ~DirectFileReader() override {
    if (!thread_.joinable()) return;
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
    }
    ring_.Wake();
    thread_.join();
  }

  absl::string_view name() const override { return "direct file"; }
  std::string note() const override { return note_; }

  void ReadAsync(std::vector<Range> ranges, absl::Time deadline,
                 std::function<void(absl::Status)> done) override {
    absl::Status status = CheckRanges(source_.manifest(), ranges);
    std::erase_if(ranges, [](const Range& range) { return range.bytes == 0; });
    if (!status.ok() || ranges.empty()) {
      done(std::move(status));
      return;
    }
    {
      absl::MutexLock lock(&mutex_);
      arrived_.push_back(
          {.ranges = std::move(ranges), .deadline = deadline, .done = std::move(done)});
    }
    ring_.Wake();
  }

 private:
  struct Read {
    std::vector<Range> ranges;
    absl::Time deadline;
    std::function<void(absl::Status)> done;
    size_t range = 0;       // the next piece begins in this one,
    uint64_t position = 0;  // so many bytes from its start
    int under_way = 0;      // pieces that the kernel has
    absl::Status status = absl::OkStatus();
  };
  // What the kernel is asked for: `bytes` bytes at `offset`, of which those before `needed_end`
  // have to be there.
  struct Piece {
    Read* read = nullptr;
    uint32_t shard = 0;
    uint64_t offset = 0;
    uint64_t bytes = 0;
    uint64_t needed_end = 0;
    uint8_t* destination = nullptr;  // (bytes)
  };

  void Run();
  void TakeArrived();
  // Whether nothing is left to do and nothing will be.
  bool Over();
  // Gives the kernel as many pieces as there are idle ones.
  void SubmitPieces();
  void CutPiece(Read& read, Piece& piece);
  void Submit(Piece& piece);
  // The kernel has read `result` bytes of the piece, or -errno.
  void OnResult(Piece& piece, int64_t result);
  void FinishPiece(Piece& piece, const absl::Status& status);
  // Calls back for reads of which nothing is left.
  void FinishReads();
  // "shard 3 (name.gguf) at offset 7"
  std::string Place(uint32_t shard, uint64_t offset) const;

  const WeightSource& source_;
  const uint64_t piece_bytes_;
  std::string note_;
  std::vector<DirectFile> files_;  // (shards)
  IoRing ring_;

  // Of the thread alone. Pieces point at their reads: lists do not move them.
  std::list<Read> reads_;      // in the order of the calls
  std::vector<Piece> pieces_;  // (queue_depth)
  std::vector<Piece*> idle_;

  absl::Mutex mutex_;
  std::list<Read> arrived_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

absl::Status DirectFileReader::Initialize(bool past_the_cache) {
  for (int i = 0; i < source_.manifest().shards_size(); ++i) {
    const std::string& name = source_.manifest().shards(i).file_name();
    const int descriptor = source_.ShardDescriptor(static_cast<uint32_t>(i));
    auto file = past_the_cache ? DirectFile::Open(descriptor, name, kAlignment)
                               : DirectFile::OpenCached(descriptor, name, "as configured");
    if (!file.ok()) return file.status();
    if (note_.empty()) note_ = file->refusal();
    files_.push_back(*std::move(file));
  }
  if (absl::Status s = ring_.Initialize(static_cast<int>(pieces_.size())); !s.ok()) return s;
  thread_ = std::thread([this] { Run(); });
  return absl::OkStatus();
}

void DirectFileReader::Run() {
  for (;;) {
    TakeArrived();
    SubmitPieces();
    FinishReads();
    if (Over()) return;
    ring_.SubmitAndWait(
        [this](void* piece, int result) { OnResult(*static_cast<Piece*>(piece), result); });
  }
}

void DirectFileReader::TakeArrived() {
  absl::MutexLock lock(&mutex_);
  reads_.splice(reads_.end(), arrived_);
}

bool DirectFileReader::Over() {
  absl::MutexLock lock(&mutex_);
  return stopping_ && arrived_.empty() && reads_.empty();
}

void DirectFileReader::SubmitPieces() {
  for (Read& read : reads_) {
    while (read.range < read.ranges.size()) {
      if (idle_.empty()) return;
      if (absl::Now() >= read.deadline) {
        const Range& range = read.ranges[read.range];
        read.status.Update(absl::DeadlineExceededError(
            absl::StrCat(Place(range.shard, range.offset + read.position), ": not read in time")));
        read.range = read.ranges.size();
        break;
      }
      Piece& piece = *idle_.back();
      idle_.pop_back();
      CutPiece(read, piece);
      Submit(piece);
    }
  }
}

// Pieces end at multiples of their size in the file or at the end of the range. Direct ones are
// widened to whole blocks: those at the ends of a range reach into its window.
void DirectFileReader::CutPiece(Read& read, Piece& piece) {
  const Range& range = read.ranges[read.range];
  const uint64_t offset = range.offset + read.position;
  const uint64_t bytes =
      std::min(range.bytes - read.position, piece_bytes_ - offset % piece_bytes_);
  piece = {.read = &read,
           .shard = range.shard,
           .offset = offset,
           .bytes = bytes,
           .needed_end = offset + bytes,
           .destination = range.destination + read.position};
  if (files_[range.shard].direct()) {
    const uint64_t before = offset % kAlignment;
    piece.offset -= before;
    piece.destination -= before;
    piece.bytes = (before + bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
  ++read.under_way;
  read.position += bytes;
  if (read.position == range.bytes) {
    read.position = 0;
    ++read.range;
  }
}

void DirectFileReader::Submit(Piece& piece) {
  io_uring_sqe* const entry = ring_.NextEntry();
  const DirectFile& file = files_[piece.shard];
  io_uring_prep_read(entry, file.fd(), piece.destination, static_cast<unsigned>(piece.bytes),
                     piece.offset);
  // From the page cache this thread would copy the bytes itself, one piece after the other.
  if (!file.direct()) io_uring_sqe_set_flags(entry, IOSQE_ASYNC);
  io_uring_sqe_set_data(entry, &piece);
}

void DirectFileReader::OnResult(Piece& piece, int64_t result) {
  const DirectFile& file = files_[piece.shard];
  // What the kernel would not do without waiting, this thread waits for.
  while (result == -EAGAIN || result == -EINTR) {
    result = pread(file.fd(), piece.destination, piece.bytes, static_cast<off_t>(piece.offset));
    if (result < 0) result = -errno;
  }
  if (result < 0) {
    const std::string message =
        absl::StrCat(Place(piece.shard, piece.offset), ": ", strerror(static_cast<int>(-result)));
    FinishPiece(piece,
                result == -EIO ? absl::DataLossError(message) : absl::UnavailableError(message));
    return;
  }
  const uint64_t bytes = static_cast<uint64_t>(result);
  if (bytes >= piece.needed_end - piece.offset) {
    FinishPiece(piece, absl::OkStatus());
    return;
  }
  // A short read. Going on needs a whole block, which only a file's last one is not.
  const uint64_t advance = file.direct() ? bytes / kAlignment * kAlignment : bytes;
  if (advance == 0) {
    FinishPiece(piece, absl::DataLossError(absl::StrCat(Place(piece.shard, piece.offset + bytes),
                                                        ": the file ends here, too early")));
    return;
  }
  piece.offset += advance;
  piece.bytes -= advance;
  piece.destination += advance;
  Submit(piece);
}

void DirectFileReader::FinishPiece(Piece& piece, const absl::Status& status) {
  Read& read = *piece.read;
  --read.under_way;
  if (!status.ok()) {
    read.status.Update(status);
    read.range = read.ranges.size();  // the rest is not worth reading
  }
  idle_.push_back(&piece);
}

void DirectFileReader::FinishReads() {
  for (auto at = reads_.begin(); at != reads_.end();) {
    if (at->under_way > 0 || at->range < at->ranges.size()) {
      ++at;
      continue;
    }
    Read read = std::move(*at);
    at = reads_.erase(at);
    // Not piece by piece: the cache's own pages may be larger, and those stay that are needed
    // beyond what is to be forgotten.
    for (const Range& range : read.ranges) files_[range.shard].Forget(range.offset, range.bytes);
    // After the bytes have been read: now it is known whether they were the model's.
    if (read.status.ok()) read.status = source_.CheckIntact();
    read.done(std::move(read.status));
  }
}

std::string DirectFileReader::Place(uint32_t shard, uint64_t offset) const {
  return absl::StrCat("shard ", shard, " (",
                      source_.manifest().shards(static_cast<int>(shard)).file_name(),
                      ") at offset ", offset);
}

}  // namespace

absl::StatusOr<std::unique_ptr<HostReader>> NewDirectFileReader(const WeightSource& source,
                                                                const DirectFileOptions& options) {
  if (options.queue_depth < 1 || options.queue_depth > kMaxQueueDepth) {
    return absl::InvalidArgumentError(
        absl::StrCat("a queue of ", options.queue_depth, " requests, at most ", kMaxQueueDepth));
  }
  if (!std::has_single_bit(options.piece_bytes) || options.piece_bytes < HostReader::kAlignment ||
      options.piece_bytes > kMaxPieceBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("reading in pieces of ", options.piece_bytes, " bytes"));
  }
  if (source.ShardDescriptor(0) < 0) {
    return absl::FailedPreconditionError("a source that streams has no files to read");
  }
  auto reader = std::make_unique<DirectFileReader>(source, options);
  if (absl::Status s = reader->Initialize(options.past_the_cache); !s.ok()) return s;
  return reader;
}

}  // namespace gguf_offload

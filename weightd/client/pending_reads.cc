#include "weightd/client/pending_reads.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace gguf_offload {

void PendingReads::Add(std::vector<WeightSource::Range> ranges, absl::Time deadline,
                       std::function<void(absl::Status)> done) {
  auto read = std::make_shared<Read>();
  read->deadline = deadline;
  read->done = std::move(done);
  for (const WeightSource::Range& range : ranges) {
    for (uint64_t at = 0; at < range.bytes; at += options_.piece_bytes) {
      waiting_.push_back({.read = read,
                          .shard = range.shard,
                          .offset = range.offset + at,
                          .bytes = std::min(options_.piece_bytes, range.bytes - at),
                          .destination = range.destination + at});
      ++read->pieces;
    }
  }
  live_.push_back(read);
  if (read->pieces == 0) {
    Finish(*read, absl::OkStatus());
    DropFinished();
  }
}

std::optional<PendingReads::Request> PendingReads::NextRequest() {
  while (!waiting_.empty() && waiting_.front().read->over) waiting_.pop_front();
  if (waiting_.empty() || requested_.size() >= options_.requested_pieces) return std::nullopt;
  if (requested_bytes_ >= options_.requested_bytes) return std::nullopt;
  Piece& piece = waiting_.front();
  piece.id = next_id_++;
  const Request request{piece.id, piece.shard, piece.offset, piece.bytes};
  requested_bytes_ += piece.bytes;
  requested_.push_back(std::move(piece));
  waiting_.pop_front();
  return request;
}

absl::StatusOr<uint8_t*> PendingReads::Expect(const Chunk& chunk) const {
  if (requested_.empty()) return absl::InvalidArgumentError("a chunk that nobody asked for");
  const Piece& piece = requested_.front();
  if (chunk.read_id != piece.id || chunk.offset != piece.offset || chunk.bytes == 0 ||
      chunk.bytes > piece.bytes || chunk.last != (chunk.bytes == piece.bytes)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "chunk of read ", chunk.read_id, " with ", chunk.bytes, " bytes at offset ", chunk.offset,
        " instead of read ", piece.id, " with up to ", piece.bytes, " at ", piece.offset));
  }
  return piece.read->over ? nullptr : piece.destination;
}

bool PendingReads::Store(const Chunk& chunk, bool intact) {
  Piece& piece = requested_.front();
  bool recoverable = true;
  if (!intact && !piece.read->over) {
    if (piece.again) {
      recoverable = false;
      Finish(*piece.read, absl::DataLossError(absl::StrCat(
                              chunk.bytes, " bytes at offset ", chunk.offset, " of shard ",
                              piece.shard, " arrived with a wrong checksum twice")));
    } else {
      Piece repeated = piece;
      repeated.bytes = chunk.bytes;
      repeated.again = true;
      ++piece.read->pieces;
      waiting_.push_front(std::move(repeated));
    }
  }
  piece.offset += chunk.bytes;
  piece.bytes -= chunk.bytes;
  piece.destination += chunk.bytes;
  requested_bytes_ -= chunk.bytes;
  if (piece.bytes == 0) {
    const std::shared_ptr<Read> read = std::move(piece.read);
    requested_.pop_front();
    if (--read->pieces == 0 && !read->over) Finish(*read, absl::OkStatus());
  }
  DropFinished();
  return recoverable;
}

void PendingReads::StreamLost() {
  for (auto piece = requested_.rbegin(); piece != requested_.rend(); ++piece) {
    if (!piece->read->over) waiting_.push_front(std::move(*piece));
  }
  requested_.clear();
  requested_bytes_ = 0;
}

void PendingReads::Expire(absl::Time now, const absl::Status& why) {
  for (const std::shared_ptr<Read>& read : live_) {
    if (read->deadline > now) continue;
    Finish(*read,
           absl::DeadlineExceededError(
               why.ok() ? std::string("the bytes did not arrive in time")
                        : absl::StrCat("the bytes did not arrive in time: ", why.ToString())));
  }
  DropFinished();
}

void PendingReads::FailAll(const absl::Status& status) {
  for (const std::shared_ptr<Read>& read : live_) Finish(*read, status);
  DropFinished();
}

absl::Time PendingReads::NextDeadline() const {
  absl::Time next = absl::InfiniteFuture();
  for (const std::shared_ptr<Read>& read : live_) next = std::min(next, read->deadline);
  return next;
}

void PendingReads::Finish(Read& read, absl::Status status) {
  if (std::exchange(read.over, true)) return;
  finished_.push_back({std::move(read.done), std::move(status)});
}

void PendingReads::DropFinished() {
  live_.remove_if([](const std::shared_ptr<Read>& read) { return read->over; });
}

}  // namespace gguf_offload

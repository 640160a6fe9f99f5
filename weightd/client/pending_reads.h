// The bookkeeping of a streaming source: which bytes have been asked for, which have arrived, and
// whom to tell.
//
// A read is cut into pieces, each of which becomes one StreamRead. Pieces wait, are asked for, and
// are filled chunk by chunk in the order they were asked for. When the stream breaks, what has not
// arrived waits again. A chunk with a wrong checksum becomes a piece of its own that is asked for
// once more.
#ifndef WEIGHTD_CLIENT_PENDING_READS_H_
#define WEIGHTD_CLIENT_PENDING_READS_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "weightd/client/weight_source.h"

namespace gguf_offload {

// Not synchronized. Nothing here calls anybody: finished reads are kept until TakeFinished.
class PendingReads {
 public:
  struct Options {
    uint64_t piece_bytes = 4 << 20;
    // What may be asked for and not have arrived: so that the daemon always has something to send,
    // but does not send much that nobody wants any more when a deadline has passed.
    uint64_t requested_bytes = 32 << 20;
    size_t requested_pieces = 512;
  };
  struct Request {
    uint64_t read_id = 0;
    uint32_t shard = 0;
    uint64_t offset = 0;
    uint64_t bytes = 0;
  };
  struct Chunk {
    uint64_t read_id = 0;
    uint64_t offset = 0;
    uint64_t bytes = 0;
    bool last = false;
  };
  struct Finished {
    std::function<void(absl::Status)> done;
    absl::Status status;
  };

  explicit PendingReads(Options options) : options_(options) {}

  // The ranges have been checked.
  void Add(std::vector<WeightSource::Range> ranges, absl::Time deadline,
           std::function<void(absl::Status)> done);

  // The next piece to ask for, if there is one and it may be asked for now.
  std::optional<Request> NextRequest();

  // Where a chunk's data goes; nullptr if nobody wants it any more. INVALID_ARGUMENT if it is not
  // the chunk that comes next.
  absl::StatusOr<uint8_t*> Expect(const Chunk& chunk) const;
  // The chunk that Expect was asked about has been stored. With `intact` false its checksum was
  // wrong. Returns false if that has now happened twice: its read has failed with DATA_LOSS.
  bool Store(const Chunk& chunk, bool intact);

  // The stream is gone: what was asked for waits again.
  void StreamLost();
  // Reads whose deadline has passed fail with DEADLINE_EXCEEDED and `why`.
  void Expire(absl::Time now, const absl::Status& why);
  void FailAll(const absl::Status& status);

  bool empty() const { return live_.empty(); }
  // The earliest deadline.
  absl::Time NextDeadline() const;
  // Reads that have ended, to be told.
  std::vector<Finished> TakeFinished() { return std::exchange(finished_, {}); }

 private:
  struct Read {
    absl::Time deadline;
    std::function<void(absl::Status)> done;
    size_t pieces = 0;  // that are not filled
    bool over = false;  // told, or about to be
  };
  struct Piece {
    std::shared_ptr<Read> read;
    uint64_t id = 0;
    uint32_t shard = 0;
    uint64_t offset = 0;  // of the next byte
    uint64_t bytes = 0;   // that are left
    uint8_t* destination = nullptr;
    bool again = false;  // its checksum was wrong before
  };

  void Finish(Read& read, absl::Status status);
  void DropFinished();

  const Options options_;
  uint64_t next_id_ = 1;
  uint64_t requested_bytes_ = 0;
  std::deque<Piece> waiting_;
  std::deque<Piece> requested_;  // in the order they were asked for
  std::list<std::shared_ptr<Read>> live_;
  std::vector<Finished> finished_;
};

}  // namespace gguf_offload

#endif  // WEIGHTD_CLIENT_PENDING_READS_H_

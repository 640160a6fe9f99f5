// How a model's bytes get into memory of the process, where they cannot be copied to a GPU from
// where they lie: three ways, one interface.
//
//   stream_reader         they come over the network
//   parallel_copy_reader  they are mapped, several threads copy
//   direct_file_reader    they are read from the disk past the page cache, for models larger than
//                         the host's memory
#ifndef COMPUTED_PREFETCH_HOST_READER_H_
#define COMPUTED_PREFETCH_HOST_READER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "gguf_offload/v1/model.pb.h"

namespace gguf_offload {

// Thread safe; may be called from within `done`, but not destroyed there.
class HostReader {
 public:
  // Disks are read in blocks of this many bytes.
  static constexpr uint64_t kAlignment = 4096;

  // One piece of a file and where to put it. `destination` is congruent to `offset` modulo
  // kAlignment. The kAlignment-aligned window around the destination belongs to the reader until
  // the read is done: it may overwrite up to kAlignment - 1 bytes before and after the range.
  struct Range {
    uint32_t shard = 0;
    uint64_t offset = 0;  // bytes from the start of the file
    uint64_t bytes = 0;
    uint8_t* destination = nullptr;  // (bytes)
  };

  // Waits for reads under way.
  virtual ~HostReader() = default;

  // For logs and metrics.
  virtual absl::string_view name() const = 0;
  // What an operator should know about how it reads; empty if there is nothing to say.
  virtual std::string note() const { return {}; }

  // Fills all ranges; `done` is called once, from any thread (maybe before ReadAsync returns), when
  // nothing is written to the ranges any more. Several reads may be under way and are served in the
  // order of the calls, but may end in another. Errors: OUT_OF_RANGE, INVALID_ARGUMENT (the
  // destination is not congruent), DATA_LOSS, DEADLINE_EXCEEDED, whatever the source says. After an
  // error the ranges hold anything.
  virtual void ReadAsync(std::vector<Range> ranges, absl::Time deadline,
                         std::function<void(absl::Status)> done) = 0;
};

// Whether all ranges lie in their shards and their destinations are congruent to the offsets.
absl::Status CheckRanges(const v1::Manifest& manifest,
                         const std::vector<HostReader::Range>& ranges);

}  // namespace gguf_offload

#endif  // COMPUTED_PREFETCH_HOST_READER_H_

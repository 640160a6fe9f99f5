// Reads the model's files from the disk with io_uring, past the page cache: for models larger than
// the host's memory, for which the cache would only evict what is needed next.
//
// Where a file system does not allow that, the file is read through the page cache, which is told
// to forget each piece once it has been read; note() says so.
#ifndef COMPUTED_PREFETCH_DIRECT_FILE_READER_H_
#define COMPUTED_PREFETCH_DIRECT_FILE_READER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "computed/prefetch/host_reader.h"
#include "weightd/client/weight_source.h"

namespace gguf_offload {

struct DirectFileOptions {
  int queue_depth = 32;            // requests at the disk at once
  uint64_t piece_bytes = 1 << 20;  // of one request; a power of two
  bool past_the_cache = true;      // false: through the page cache, as if direct reads were refused
};

// `source` must outlive the reader. One thread talks to the kernel and calls back. The deadline is
// looked at before each piece; a piece that has been asked for is waited for. DATA_LOSS names the
// shard and the offset at which a file ends too early or cannot be read, and is also answered if
// the source has noticed by the end of a read that the files are damaged. Errors:
// FAILED_PRECONDITION (the source streams, or io_uring is not to be had here, as in many
// containers), INVALID_ARGUMENT (options), RESOURCE_EXHAUSTED.
absl::StatusOr<std::unique_ptr<HostReader>> NewDirectFileReader(
    const WeightSource& source, const DirectFileOptions& options = {});

}  // namespace gguf_offload

#endif  // COMPUTED_PREFETCH_DIRECT_FILE_READER_H_

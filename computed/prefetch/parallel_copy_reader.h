// Copies from the mappings of a source that shares its pages, with several threads: one does not
// come near what the memory, let alone a GPU's link, can take. Stores that bypass the caches make
// each thread faster (on two cores of a virtual machine: 10 to 18 GB/s for one, 15 to 23 for two).
#ifndef COMPUTED_PREFETCH_PARALLEL_COPY_READER_H_
#define COMPUTED_PREFETCH_PARALLEL_COPY_READER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "computed/prefetch/host_reader.h"
#include "weightd/client/weight_source.h"

namespace gguf_offload {

struct ParallelCopyOptions {
  int threads = 0;                 // 0: as many as there are cores, at most 8
  uint64_t piece_bytes = 1 << 20;  // that one thread copies at a time; a power of two
  bool around_caches = true;  // what the GPU reads next is not wanted in this processor's caches
};

// `source` must outlive the reader. The deadline is looked at before each piece. DATA_LOSS if the
// source has noticed by the end of a read that the files are damaged. Errors: FAILED_PRECONDITION
// (the source streams), INVALID_ARGUMENT (options).
absl::StatusOr<std::unique_ptr<HostReader>> NewParallelCopyReader(
    const WeightSource& source, const ParallelCopyOptions& options = {});

}  // namespace gguf_offload

#endif  // COMPUTED_PREFETCH_PARALLEL_COPY_READER_H_

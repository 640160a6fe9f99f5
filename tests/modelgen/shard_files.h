// Puts a GGUF layout into files with many threads. Used by GgufWriter only.
#ifndef TESTS_MODELGEN_SHARD_FILES_H_
#define TESTS_MODELGEN_SHARD_FILES_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tests/modelgen/gguf_writer.h"

namespace gguf_offload {

// Writes shard i of `layout` to paths[i], with data from `fill`. After an error the files that this
// call has created or replaced are gone.
absl::Status WriteShardFiles(const GgufLayout& layout, const std::vector<std::string>& paths,
                             int threads, const GgufWriter::Fill& fill);

}  // namespace gguf_offload

#endif  // TESTS_MODELGEN_SHARD_FILES_H_

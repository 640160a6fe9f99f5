#include "computed/prefetch/host_reader.h"

#include "absl/strings/str_cat.h"
#include "weightd/client/manifest_check.h"

namespace gguf_offload {

absl::Status CheckRanges(const v1::Manifest& manifest,
                         const std::vector<HostReader::Range>& ranges) {
  for (const HostReader::Range& range : ranges) {
    absl::Status status = CheckRange(manifest, range.shard, range.offset, range.bytes);
    if (!status.ok()) return status;
    const uint64_t address = reinterpret_cast<uintptr_t>(range.destination);
    if (range.bytes > 0 && (address - range.offset) % HostReader::kAlignment != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(manifest.shards(static_cast<int>(range.shard)).file_name(), ": ",
                       range.bytes, " bytes at offset ", range.offset,
                       " for a destination at another offset modulo ", HostReader::kAlignment));
    }
  }
  return absl::OkStatus();
}

}  // namespace gguf_offload

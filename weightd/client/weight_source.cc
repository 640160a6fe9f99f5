#include "weightd/client/weight_source.h"

#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/notification.h"
#include "weightd/client/shared_memory_source.h"
#include "weightd/client/streaming_source.h"

namespace gguf_offload {

absl::StatusOr<std::unique_ptr<WeightSource>> WeightSource::Attach(Options options) {
  if (options.worker.empty()) options.worker = absl::StrCat("worker:", getpid());
  absl::string_view path = options.address;
  if (absl::ConsumePrefix(&path, "unix:")) {
    absl::ConsumePrefix(&path, "//");  // unix:///absolute/path is the same
    return SharedMemorySource::Attach(options, std::string(path));
  }
  return StreamingSource::Attach(options);
}

absl::Status WeightSource::Read(std::vector<Range> ranges, absl::Time deadline) {
  absl::Notification done;
  absl::Status result;
  ReadAsync(std::move(ranges), deadline, [&](absl::Status status) {
    result = std::move(status);
    done.Notify();
  });
  done.WaitForNotification();
  return result;
}

}  // namespace gguf_offload

#include "computed/prefetch/stream_reader.h"

#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace gguf_offload {
namespace {

class StreamReader final : public HostReader {
 public:
  explicit StreamReader(WeightSource& source) : source_(source) {}
  ~StreamReader() override {
    absl::MutexLock lock(&mutex_);
    const auto idle = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return under_way_ == 0; };
    mutex_.Await(absl::Condition(&idle));
  }

  absl::string_view name() const override { return "stream"; }

  void ReadAsync(std::vector<Range> ranges, absl::Time deadline,
                 std::function<void(absl::Status)> done) override {
    if (absl::Status status = CheckRanges(source_.manifest(), ranges); !status.ok()) {
      done(std::move(status));
      return;
    }
    std::vector<WeightSource::Range> wanted;
    wanted.reserve(ranges.size());
    for (const Range& range : ranges) {
      wanted.push_back({range.shard, range.offset, range.bytes, range.destination});
    }
    {
      absl::MutexLock lock(&mutex_);
      ++under_way_;
    }
    source_.ReadAsync(std::move(wanted), deadline,
                      [this, done = std::move(done)](absl::Status status) {
                        done(std::move(status));
                        absl::MutexLock lock(&mutex_);
                        --under_way_;
                      });
  }

 private:
  WeightSource& source_;
  absl::Mutex mutex_;
  int under_way_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace

std::unique_ptr<HostReader> NewStreamReader(WeightSource& source) {
  return std::make_unique<StreamReader>(source);
}

}  // namespace gguf_offload

// WeightSource over shared pages.
#ifndef WEIGHTD_CLIENT_SHARED_MEMORY_SOURCE_H_
#define WEIGHTD_CLIENT_SHARED_MEMORY_SOURCE_H_

#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "weightd/client/lease_keeper.h"
#include "weightd/client/weight_source.h"
#include "weightd/store/mapped_file.h"

namespace gguf_offload {

// Owns the mappings, the lease, and a thread that copies for ReadAsync.
class SharedMemorySource final : public WeightSource {
 public:
  // `socket_path` is that of options.address.
  static absl::StatusOr<std::unique_ptr<WeightSource>> Attach(const Options& options,
                                                              const std::string& socket_path);
  ~SharedMemorySource() override;

  const v1::Manifest& manifest() const override { return lease_->manifest(); }
  const uint8_t* MappedShard(uint32_t shard) const override;
  int ShardDescriptor(uint32_t shard) const override;
  void ReadAsync(std::vector<Range> ranges, absl::Time deadline,
                 std::function<void(absl::Status)> done) override;
  absl::Status CheckIntact() const override;
  bool attached() const override { return lease_->attached(); }
  uint64_t bytes_received() const override { return 0; }

 private:
  struct Job {
    std::vector<Range> ranges;
    absl::Time deadline;
    std::function<void(absl::Status)> done;
  };

  SharedMemorySource(std::unique_ptr<LeaseKeeper> lease,
                     std::vector<std::shared_ptr<const store::MappedFile>> shards);
  void Run();
  absl::Status Copy(const Job& job);

  const std::unique_ptr<LeaseKeeper> lease_;
  const std::vector<std::shared_ptr<const store::MappedFile>> shards_;

  absl::Mutex mutex_;
  std::deque<Job> jobs_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace gguf_offload

#endif  // WEIGHTD_CLIENT_SHARED_MEMORY_SOURCE_H_

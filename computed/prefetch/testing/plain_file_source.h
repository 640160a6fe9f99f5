// Weight sources and destinations for tests of host readers.
#ifndef COMPUTED_PREFETCH_TESTING_PLAIN_FILE_SOURCE_H_
#define COMPUTED_PREFETCH_TESTING_PLAIN_FILE_SOURCE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "computed/prefetch/host_reader.h"
#include "weightd/client/weight_source.h"

namespace gguf_offload {

// A model whose shards are files of arbitrary bytes in a folder of their own. Shares descriptors
// and mappings; what is asked of ReadAsync is kept for the test to answer. Thread safe.
class PlainFileSource final : public WeightSource {
 public:
  // One file a size. `folder`: where to create the folder; TEST_TMPDIR if empty.
  explicit PlainFileSource(const std::vector<size_t>& sizes, const std::string& folder = "");
  ~PlainFileSource() override;

  // The bytes of a shard.
  const std::string& contents(uint32_t shard) const { return shards_[shard].contents; }
  void Truncate(uint32_t shard, uint64_t bytes);
  // From now on it streams: no mappings, no descriptors.
  void StopSharing() { shared_ = false; }
  void SetIntact(absl::Status status);
  // From now on ReadAsync fills the ranges.
  void AnswerAtOnce() { answers_ = true; }

  struct Request {
    std::vector<Range> ranges;
    absl::Time deadline;
    std::function<void(absl::Status)> done;
  };
  // The oldest request that has not been taken; waits for one.
  Request TakeRequest();
  // Puts the files' bytes where they are wanted.
  void Fill(const Request& request) const;

  const v1::Manifest& manifest() const override { return manifest_; }
  const uint8_t* MappedShard(uint32_t shard) const override;
  int ShardDescriptor(uint32_t shard) const override;
  void ReadAsync(std::vector<Range> ranges, absl::Time deadline,
                 std::function<void(absl::Status)> done) override;
  absl::Status CheckIntact() const override;
  bool attached() const override { return true; }
  uint64_t bytes_received() const override { return 0; }

 private:
  struct Shard {
    std::string path;
    std::string contents;
    int fd = -1;
    void* mapping = nullptr;
  };

  std::string folder_;
  std::vector<Shard> shards_;
  v1::Manifest manifest_;
  bool shared_ = true;
  bool answers_ = false;
  mutable absl::Mutex mutex_;
  absl::Status intact_ ABSL_GUARDED_BY(mutex_);
  std::vector<Request> requests_ ABSL_GUARDED_BY(mutex_);
};

// Memory for ranges, and a record of what a reader may write to.
class GuardedMemory {
 public:
  explicit GuardedMemory(const PlainFileSource& source) : source_(source) {}
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;
  ~GuardedMemory();

  // A range with a destination of its own.
  HostReader::Range Range(uint32_t shard, uint64_t offset, uint64_t bytes);
  // Whether all ranges hold the files' bytes; says which does not.
  void ExpectFilled() const;
  // Whether everything outside the ranges' windows is as it was.
  void ExpectGuardsIntact() const;

 private:
  struct Block {
    HostReader::Range range;
    uint8_t* memory;  // (size), a page of guard bytes around the window
    size_t size;
  };
  const PlainFileSource& source_;
  std::vector<Block> blocks_;
};

// Reads and waits.
absl::Status ReadAll(HostReader& reader, std::vector<HostReader::Range> ranges,
                     absl::Time deadline = absl::InfiniteFuture());

}  // namespace gguf_offload

#endif  // COMPUTED_PREFETCH_TESTING_PLAIN_FILE_SOURCE_H_

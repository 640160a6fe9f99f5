#include "weightd/client/shared_memory_source.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "weightd/client/channel.h"
#include "weightd/client/manifest_check.h"
#include "weightd/shm/receive.h"

namespace gguf_offload {
namespace {

// Copied between two looks at the clock.
constexpr uint64_t kStride = 16 << 20;

absl::StatusOr<std::vector<std::shared_ptr<const store::MappedFile>>> MapShards(
    const v1::Manifest& manifest, std::vector<store::UniqueFd> descriptors) {
  std::vector<std::shared_ptr<const store::MappedFile>> shards;
  for (size_t i = 0; i < descriptors.size(); ++i) {
    const v1::ShardInfo& info = manifest.shards(static_cast<int>(i));
    auto file = store::MappedFile::FromDescriptor(std::move(descriptors[i]), info.file_name());
    if (!file.ok()) return file.status();
    if ((*file)->size() < info.bytes()) {
      return absl::FailedPreconditionError(absl::StrCat(info.file_name(), " has ", (*file)->size(),
                                                        " bytes instead of ", info.bytes()));
    }
    shards.push_back(*std::move(file));
  }
  return shards;
}

}  // namespace

absl::StatusOr<std::unique_ptr<WeightSource>> SharedMemorySource::Attach(
    const Options& options, const std::string& socket_path) {
  const absl::Time deadline = absl::Now() + options.attach_timeout;
  for (;;) {
    auto lease = LeaseKeeper::Attach({.channel = OpenChannel(options.address),
                                      .model = options.model,
                                      .worker = options.worker,
                                      .transport = v1::TRANSPORT_SHARED_MEMORY,
                                      .log = options.log,
                                      .counters = options.counters},
                                     deadline);
    if (!lease.ok()) return lease.status();
    const v1::Manifest& manifest = (*lease)->manifest();
    auto descriptors = shm::ReceiveDescriptors(
        socket_path, (*lease)->ticket(), static_cast<size_t>(manifest.shards_size()), deadline);
    if (!descriptors.ok()) {
      // The daemon went away between the two steps: from the start with its successor.
      const bool broken = absl::IsUnavailable(descriptors.status()) || !(*lease)->attached();
      if (broken && absl::Now() < deadline) continue;
      return descriptors.status();
    }
    auto shards = MapShards(manifest, *std::move(descriptors));
    if (!shards.ok()) return shards.status();
    return std::unique_ptr<WeightSource>(
        new SharedMemorySource(*std::move(lease), *std::move(shards)));
  }
}

SharedMemorySource::SharedMemorySource(std::unique_ptr<LeaseKeeper> lease,
                                       std::vector<std::shared_ptr<const store::MappedFile>> shards)
    : lease_(std::move(lease)), shards_(std::move(shards)) {
  thread_ = std::thread([this] { Run(); });
}

SharedMemorySource::~SharedMemorySource() {
  std::deque<Job> left;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    left.swap(jobs_);
  }
  thread_.join();
  for (Job& job : left) job.done(absl::CancelledError("the weight source is being destroyed"));
}

const uint8_t* SharedMemorySource::MappedShard(uint32_t shard) const {
  return shard < shards_.size() ? shards_[shard]->data() : nullptr;
}

int SharedMemorySource::ShardDescriptor(uint32_t shard) const {
  return shard < shards_.size() ? shards_[shard]->fd() : -1;
}

absl::Status SharedMemorySource::CheckIntact() const {
  if (absl::Status s = lease_->CheckIntact(); !s.ok()) return s;
  for (const auto& shard : shards_) {
    if (absl::Status s = shard->CheckIntact(); !s.ok()) return s;
  }
  return absl::OkStatus();
}

void SharedMemorySource::ReadAsync(std::vector<Range> ranges, absl::Time deadline,
                                   std::function<void(absl::Status)> done) {
  absl::Status status;
  for (const Range& range : ranges) {
    if (status.ok()) status = CheckRange(manifest(), range.shard, range.offset, range.bytes);
  }
  if (status.ok()) {
    absl::MutexLock lock(&mutex_);
    if (!stopping_) {
      jobs_.push_back({std::move(ranges), deadline, std::move(done)});
      return;
    }
    status = absl::CancelledError("the weight source is being destroyed");
  }
  done(std::move(status));
}

void SharedMemorySource::Run() {
  for (;;) {
    Job job;
    {
      absl::MutexLock lock(&mutex_);
      const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
        return stopping_ || !jobs_.empty();
      };
      mutex_.Await(absl::Condition(&ready));
      if (stopping_) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job.done(Copy(job));
  }
}

absl::Status SharedMemorySource::Copy(const Job& job) {
  for (const Range& range : job.ranges) {
    const uint8_t* const from = shards_[range.shard]->data() + range.offset;
    for (uint64_t at = 0; at < range.bytes; at += kStride) {
      if (absl::Now() >= job.deadline) {
        return absl::DeadlineExceededError("the copy was not done in time");
      }
      std::memcpy(range.destination + at, from + at, std::min(kStride, range.bytes - at));
    }
    // After the bytes have been read: now it is known whether they were the file's.
    if (absl::Status s = shards_[range.shard]->CheckIntact(); !s.ok()) return s;
  }
  return lease_->CheckIntact();
}

}  // namespace gguf_offload

#include "computed/prefetch/testing/plain_file_source.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"

namespace gguf_offload {
namespace {

constexpr uint64_t kPage = HostReader::kAlignment;
constexpr uint8_t kGuard = 0xa7;

void Require(bool condition, const char* what) {
  if (condition) return;
  std::perror(what);
  std::abort();
}

std::string RandomBytes(size_t bytes, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string result(bytes, '\0');
  for (size_t at = 0; at < bytes; at += 8) {
    const uint64_t word = random();
    std::memcpy(&result[at], &word, std::min<size_t>(8, bytes - at));
  }
  return result;
}

}  // namespace

PlainFileSource::PlainFileSource(const std::vector<size_t>& sizes, const std::string& folder) {
  const char* const base = std::getenv("TEST_TMPDIR");
  folder_ = absl::StrCat(!folder.empty()   ? folder
                         : base != nullptr ? base
                                           : "/tmp",
                         "/shards.XXXXXX");
  Require(mkdtemp(folder_.data()) != nullptr, folder_.c_str());
  for (size_t size : sizes) {
    Shard shard;
    shard.path = absl::StrCat(folder_, "/", shards_.size());
    shard.contents = RandomBytes(size, shards_.size() + 1);
    const int out = open(shard.path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    Require(write(out, shard.contents.data(), size) == static_cast<ssize_t>(size), "write");
    // What direct reads are to find, and what the page cache can be made to forget.
    Require(fsync(out) == 0 && close(out) == 0, "fsync");
    shard.fd = open(shard.path.c_str(), O_RDONLY | O_CLOEXEC);
    Require(shard.fd >= 0, "open");
    if (size > 0) {
      shard.mapping = mmap(nullptr, size, PROT_READ, MAP_SHARED, shard.fd, 0);
      Require(shard.mapping != MAP_FAILED, "mmap");
    }
    v1::ShardInfo& info = *manifest_.add_shards();
    info.set_file_name(absl::StrCat("shard-", shards_.size(), ".gguf"));
    info.set_bytes(size);
    shards_.push_back(std::move(shard));
  }
}

PlainFileSource::~PlainFileSource() {
  for (const Shard& shard : shards_) {
    if (shard.mapping != nullptr) munmap(shard.mapping, shard.contents.size());
    close(shard.fd);
  }
  std::filesystem::remove_all(folder_);
}

void PlainFileSource::Truncate(uint32_t shard, uint64_t bytes) {
  Require(truncate(shards_[shard].path.c_str(), static_cast<off_t>(bytes)) == 0, "truncate");
}

void PlainFileSource::SetIntact(absl::Status status) {
  absl::MutexLock lock(&mutex_);
  intact_ = std::move(status);
}

PlainFileSource::Request PlainFileSource::TakeRequest() {
  absl::MutexLock lock(&mutex_);
  const auto any = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !requests_.empty(); };
  mutex_.Await(absl::Condition(&any));
  Request request = std::move(requests_.front());
  requests_.erase(requests_.begin());
  return request;
}

void PlainFileSource::Fill(const Request& request) const {
  for (const Range& range : request.ranges) {
    std::memcpy(range.destination, &contents(range.shard)[range.offset], range.bytes);
  }
}

const uint8_t* PlainFileSource::MappedShard(uint32_t shard) const {
  if (!shared_ || shard >= shards_.size()) return nullptr;
  return static_cast<const uint8_t*>(shards_[shard].mapping);
}

int PlainFileSource::ShardDescriptor(uint32_t shard) const {
  return shared_ && shard < shards_.size() ? shards_[shard].fd : -1;
}

void PlainFileSource::ReadAsync(std::vector<Range> ranges, absl::Time deadline,
                                std::function<void(absl::Status)> done) {
  Request request = {std::move(ranges), deadline, std::move(done)};
  if (answers_) {
    Fill(request);
    request.done(absl::OkStatus());
    return;
  }
  absl::MutexLock lock(&mutex_);
  requests_.push_back(std::move(request));
}

absl::Status PlainFileSource::CheckIntact() const {
  absl::MutexLock lock(&mutex_);
  return intact_;
}

GuardedMemory::~GuardedMemory() {
  for (const Block& block : blocks_) std::free(block.memory);
}

HostReader::Range GuardedMemory::Range(uint32_t shard, uint64_t offset, uint64_t bytes) {
  const uint64_t window = (offset % kPage + bytes + kPage - 1) / kPage * kPage;
  Block block;
  block.size = window + 2 * kPage;
  block.memory = static_cast<uint8_t*>(std::aligned_alloc(kPage, block.size));
  Require(block.memory != nullptr, "aligned_alloc");
  std::memset(block.memory, kGuard, block.size);
  block.range = {shard, offset, bytes, block.memory + kPage + offset % kPage};
  blocks_.push_back(block);
  return block.range;
}

void GuardedMemory::ExpectFilled() const {
  for (const Block& block : blocks_) {
    const HostReader::Range& range = block.range;
    EXPECT_EQ(
        std::memcmp(range.destination, &source_.contents(range.shard)[range.offset], range.bytes),
        0)
        << range.bytes << " bytes at offset " << range.offset << " of shard " << range.shard;
  }
}

void GuardedMemory::ExpectGuardsIntact() const {
  for (const Block& block : blocks_) {
    for (uint64_t i = 0; i < kPage; ++i) {
      ASSERT_EQ(block.memory[i], kGuard) << "before " << block.range.offset;
      ASSERT_EQ(block.memory[block.size - 1 - i], kGuard) << "after " << block.range.offset;
    }
  }
}

absl::Status ReadAll(HostReader& reader, std::vector<HostReader::Range> ranges,
                     absl::Time deadline) {
  absl::Notification done;
  absl::Status result;
  reader.ReadAsync(std::move(ranges), deadline, [&](absl::Status status) {
    result = std::move(status);
    done.Notify();
  });
  done.WaitForNotification();
  return result;
}

}  // namespace gguf_offload

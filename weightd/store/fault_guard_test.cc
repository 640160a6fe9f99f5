#include "weightd/store/fault_guard.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "weightd/store/testing/temp_folder.h"

namespace gguf_offload::store {
namespace {

constexpr size_t kPage = 4096;

// A file of `pages` pages full of 'x', mapped and then truncated to `left` pages.
class TruncatedMapping {
 public:
  TruncatedMapping(size_t pages, size_t left) : bytes_(pages * kPage) {
    const std::string path = folder_.Write("file", std::string(bytes_, 'x'));
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    data_ = static_cast<const volatile char*>(mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, fd, 0));
    close(fd);
    folder_.Truncate("file", static_cast<off_t>(left * kPage));
  }
  ~TruncatedMapping() { munmap(const_cast<char*>(data_), bytes_); }
  const void* begin() const { return const_cast<const char*>(data_); }
  size_t bytes() const { return bytes_; }
  char operator[](size_t offset) const { return data_[offset]; }

 private:
  TempFolder folder_;
  size_t bytes_;
  const volatile char* data_;
};

TEST(FaultGuard, LostPagesReadAsZerosAndAreReported) {
  const TruncatedMapping mapping(4, 2);
  const MappingGuard guard(mapping.begin(), mapping.bytes());
  EXPECT_EQ(mapping[kPage * 2 - 1], 'x');
  EXPECT_FALSE(guard.faulted());
  EXPECT_EQ(mapping[kPage * 3 + 17], '\0');
  EXPECT_TRUE(guard.faulted());
  EXPECT_EQ(mapping[kPage * 2], '\0');
  EXPECT_EQ(mapping[0], 'x');  // the others are untouched
}

TEST(FaultGuard, TellsMappingsApart) {
  const TruncatedMapping damaged(2, 0);
  const TruncatedMapping intact(2, 2);
  const MappingGuard damaged_guard(damaged.begin(), damaged.bytes());
  MappingGuard moved(intact.begin(), intact.bytes());
  const MappingGuard intact_guard(std::move(moved));
  EXPECT_EQ(damaged[5], '\0');
  EXPECT_EQ(intact[5], 'x');
  EXPECT_TRUE(damaged_guard.faulted());
  EXPECT_FALSE(intact_guard.faulted());
  EXPECT_FALSE(moved.faulted());  // NOLINT(bugprone-use-after-move): guards nothing now
}

TEST(FaultGuard, SlotsAreReusedWithoutOldFaults) {
  for (int i = 0; i < 200; ++i) {
    const TruncatedMapping mapping(1, 0);
    const MappingGuard guard(mapping.begin(), mapping.bytes());
    EXPECT_FALSE(guard.faulted());
    EXPECT_EQ(mapping[0], '\0');
    EXPECT_TRUE(guard.faulted());
  }
}

TEST(FaultGuard, ManyMappingsAtOnce) {
  std::vector<std::unique_ptr<TruncatedMapping>> mappings;
  std::vector<MappingGuard> guards;
  for (int i = 0; i < 150; ++i) {  // more than one block of slots
    mappings.push_back(std::make_unique<TruncatedMapping>(1, 0));
    guards.emplace_back(mappings.back()->begin(), mappings.back()->bytes());
  }
  EXPECT_EQ((*mappings.back())[0], '\0');
  EXPECT_TRUE(guards.back().faulted());
  EXPECT_FALSE(guards.front().faulted());
}

TEST(FaultGuard, ThreadsMayFaultTogether) {
  const TruncatedMapping mapping(256, 0);
  const MappingGuard guard(mapping.begin(), mapping.bytes());
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (size_t page = 0; page < 256; ++page) {
        // Others come and go meanwhile.
        const MappingGuard other(mapping.begin(), 0);
        if (mapping[page * kPage] != '\0') ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_TRUE(guard.faulted());
}

// Killed by SIGBUS, or by a sanitizer's handler of it, which exits.
bool DiedOfBusError(int status) {
  return (WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS) ||
         (WIFEXITED(status) && WEXITSTATUS(status) != 0);
}

TEST(FaultGuardDeathTest, FaultsElsewhereStillKill) {
  const TruncatedMapping guarded(1, 0);
  const MappingGuard guard(guarded.begin(), guarded.bytes());
  const TruncatedMapping unguarded(1, 0);
  EXPECT_EXIT((void)unguarded[0], DiedOfBusError, "");
  EXPECT_EXIT(raise(SIGBUS), DiedOfBusError, "");
}

}  // namespace
}  // namespace gguf_offload::store

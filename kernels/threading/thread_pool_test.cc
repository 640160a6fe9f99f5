#include "kernels/threading/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace gguf_offload {
namespace {

TEST(ThreadPoolTest, RunsEveryTaskOnce) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (size_t tasks : {0u, 1u, 2u, 7u, 1000u}) {
      std::vector<std::atomic<int>> calls(tasks);
      std::atomic<bool> thread_in_range{true};
      pool.ParallelFor(tasks, [&](size_t task, int thread) {
        calls[task].fetch_add(1);
        if (thread < 0 || thread >= threads) thread_in_range = false;
      });
      for (const auto& count : calls) EXPECT_EQ(count.load(), 1);
      EXPECT_TRUE(thread_in_range);
    }
  }
}

TEST(ThreadPoolTest, LoopsBackToBackSeeEachOthersWrites) {
  ThreadPool pool(3);
  std::vector<int> read(64, 0), written(64, 0);
  for (int round = 1; round <= 2000; ++round) {
    pool.ParallelFor(read.size(),
                     [&](size_t task, int) { written[task] = read[(task + 1) % read.size()] + 1; });
    for (int value : written) ASSERT_EQ(value, round);
    read.swap(written);
  }
}

}  // namespace
}  // namespace gguf_offload

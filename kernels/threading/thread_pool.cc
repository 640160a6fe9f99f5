#include "kernels/threading/thread_pool.h"

#include <chrono>
#include <thread>

namespace gguf_offload {
namespace {

// Longer than the gaps between the kernels of a step: to wake a sleeping thread can take as long as
// a kernel, above all on a virtual machine, where it means to wake a processor.
constexpr auto kPatience = std::chrono::milliseconds(2);
constexpr int kSpinsBetweenYields = 64;

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Spins until `done()` for a while; whether it came true. Whoever else wants the processor gets it.
template <typename Done>
bool SpinUntil(const Done& done) {
  if (done()) return true;
  const auto end = std::chrono::steady_clock::now() + kPatience;
  do {
    for (int spin = 0; spin < kSpinsBetweenYields; ++spin) {
      if (done()) return true;
      Pause();
    }
    std::this_thread::yield();
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

}  // namespace

ThreadPool::ThreadPool(int threads) : shares_(threads) {
  for (int thread = 1; thread < threads; ++thread) {
    workers_.emplace_back([this, thread] { WorkerLoop(thread); });
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  epoch_.fetch_add(1);
  epoch_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(size_t tasks, Function function, const void* body) {
  function_ = function;
  body_ = body;
  const size_t threads = shares_.size();
  for (size_t thread = 0; thread < threads; ++thread) {
    shares_[thread].next.store(tasks * thread / threads, std::memory_order_relaxed);
    shares_[thread].end = tasks * (thread + 1) / threads;
  }
  running_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  TakeTasks(0);
  const auto all_done = [this] { return running_.load(std::memory_order_acquire) == 0; };
  while (!SpinUntil(all_done)) {
    const int running = running_.load(std::memory_order_acquire);
    if (running != 0) running_.wait(running, std::memory_order_acquire);
  }
}

void ThreadPool::TakeTasks(int thread) {
  const size_t threads = shares_.size();
  for (size_t i = 0; i < threads; ++i) {
    Share& share = shares_[(thread + i) % threads];
    while (true) {
      const size_t task = share.next.fetch_add(1, std::memory_order_relaxed);
      if (task >= share.end) break;
      function_(body_, task, thread);
    }
  }
}

void ThreadPool::WorkerLoop(int thread) {
  uint32_t seen = 0;
  while (true) {
    SpinUntil([&] { return epoch_.load(std::memory_order_acquire) != seen; });
    epoch_.wait(seen, std::memory_order_acquire);
    ++seen;
    if (stop_.load()) return;
    TakeTasks(thread);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
  }
}

}  // namespace gguf_offload

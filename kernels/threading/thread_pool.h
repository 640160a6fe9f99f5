// The threads that CPU kernels run on.
//
// Thread compatible: one caller at a time. The calling thread takes part as thread 0, so a pool of
// one thread has no other. Workers spin for two milliseconds after a loop, as a forward pass is
// hundreds of loops back to back, then sleep.
#ifndef KERNELS_THREADING_THREAD_POOL_H_
#define KERNELS_THREADING_THREAD_POOL_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

namespace gguf_offload {

class ThreadPool {
 public:
  // `threads` >= 1, the calling thread included.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(task, thread) once for each task in [0, tasks), 0 <= thread < threads(), tasks
  // handed out dynamically; returns when all are done. `body` must not throw and not call
  // ParallelFor.
  template <typename Body>
  void ParallelFor(size_t tasks, const Body& body) {
    if (tasks <= 1 || workers_.empty()) {
      for (size_t task = 0; task < tasks; ++task) body(task, 0);
      return;
    }
    Run(tasks, &Invoke<Body>, &body);
  }

 private:
  using Function = void (*)(const void* body, size_t task, int thread);

  template <typename Body>
  static void Invoke(const void* body, size_t task, int thread) {
    (*static_cast<const Body*>(body))(task, thread);
  }

  void Run(size_t tasks, Function function, const void* body);
  void WorkerLoop(int thread);
  void TakeTasks(int thread);

  // The tasks of one thread that nobody has taken yet.
  struct alignas(64) Share {
    std::atomic<size_t> next{0};
    size_t end = 0;
  };

  // The loop in progress; written by the caller before `epoch_` is advanced.
  Function function_ = nullptr;
  const void* body_ = nullptr;
  std::vector<Share> shares_;  // (threads)

  alignas(64) std::atomic<uint32_t> epoch_{0};  // advances once a loop; workers wait on it
  alignas(64) std::atomic<int> running_{0};     // workers that have not finished the loop yet
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace gguf_offload

#endif  // KERNELS_THREADING_THREAD_POOL_H_

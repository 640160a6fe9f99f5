// Brings models' pages into memory in the background.
#ifndef WEIGHTD_STORE_POPULATOR_H_
#define WEIGHTD_STORE_POPULATOR_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "weightd/store/model.h"

namespace gguf_offload::store {

// Threads that populate (MADV_POPULATE_READ; on kernels before 5.14 by touching pages) and lock the
// mappings of models, piece by piece, several pieces at a time: one reader alone does not keep a
// disk array busy. Model::populated_bytes() advances with each piece. Holds no model alive: a model
// that all others have dropped is forgotten. Thread safe.
class Populator {
 public:
  // The end of a job: OK, or DATA_LOSS if the files could not be read. `note` says what went
  // otherwise than asked (pages could not be locked; not enough memory), else it is empty.
  // `locked`: all pages are locked.
  struct Outcome {
    absl::Status status;
    std::string note;
    bool locked = false;
  };
  using Finished = std::function<void(const std::shared_ptr<const Model>&, const Outcome&)>;

  // `lock_pages` is mlock(2) or takes its place.
  Populator(int threads, std::function<int(const void*, size_t)> lock_pages);
  // Drops what has not begun and joins the threads.
  ~Populator();
  Populator(const Populator&) = delete;
  Populator& operator=(const Populator&) = delete;

  // Starts a job, in place of one for the same model that may be under way. `finished` is called
  // once from one of the threads, unless the job is replaced, cancelled or its model dropped.
  void Start(const std::shared_ptr<const Model>& model, bool lock, Finished finished);

  // Ends the job of a model, if there is one, and unlocks its pages.
  void Cancel(const Model& model);

  // Waits until there is nothing left to do.
  void WaitUntilIdle();

 private:
  struct Job {
    std::weak_ptr<const Model> model;
    const Model* key;  // to compare with, never to dereference
    Finished finished;
    bool lock = false;
    size_t pieces_left = 0;
    bool cancelled = false;
    Outcome outcome;
  };
  struct Piece {
    std::shared_ptr<Job> job;
    uint32_t shard = 0;
    uint64_t offset = 0;  // from the start of the file, page-aligned
    uint64_t bytes = 0;
  };

  void Run();
  void Process(const Piece& piece);
  void Finish(Job& job, const std::shared_ptr<const Model>& model);
  void CancelLocked(const Model* model) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasWork() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return stopping_ || !pieces_.empty(); }
  bool Idle() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return busy_ == 0 && pieces_.empty(); }

  const std::function<int(const void*, size_t)> lock_pages_;
  absl::Mutex mutex_;
  std::deque<Piece> pieces_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::weak_ptr<Job>> jobs_ ABSL_GUARDED_BY(mutex_);
  int busy_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace gguf_offload::store

#endif  // WEIGHTD_STORE_POPULATOR_H_

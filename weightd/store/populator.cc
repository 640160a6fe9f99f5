#include "weightd/store/populator.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22  // linux/mman.h, since 5.14
#endif

namespace gguf_offload::store {
namespace {

// Large enough for a disk to stream, small enough for progress to be seen.
constexpr uint64_t kPieceBytes = uint64_t{64} << 20;

// Faults on pages that cannot be read are caught by the mapping's guard.
void TouchPages(const uint8_t* begin, uint64_t bytes) {
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  for (uint64_t offset = 0; offset < bytes; offset += page) {
    (void)*static_cast<const volatile uint8_t*>(begin + offset);
  }
}

// Returns 0 or an errno: EFAULT (no file behind the page, or it cannot be read), ENOMEM.
int PopulatePages(const uint8_t* begin, uint64_t bytes) {
  while (madvise(const_cast<uint8_t*>(begin), bytes, MADV_POPULATE_READ) != 0) {
    if (errno == EINTR || errno == EAGAIN) continue;
    if (errno != EINVAL) return errno;
    TouchPages(begin, bytes);
    break;
  }
  return 0;
}

void UnlockAll(const Model& model) {
  for (const Model::Shard& shard : model.shards()) {
    if (shard.file->size() > 0) munlock(shard.file->data(), shard.file->size());
  }
}

}  // namespace

Populator::Populator(int threads, std::function<int(const void*, size_t)> lock_pages)
    : lock_pages_(std::move(lock_pages)) {
  for (int i = 0; i < std::max(threads, 1); ++i) threads_.emplace_back([this] { Run(); });
}

Populator::~Populator() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    pieces_.clear();
  }
  for (std::thread& thread : threads_) thread.join();
}

void Populator::Start(const std::shared_ptr<const Model>& model, bool lock, Finished finished) {
  auto job = std::make_shared<Job>();
  job->model = model;
  job->key = model.get();
  job->finished = std::move(finished);
  job->lock = lock;
  absl::MutexLock guard(&mutex_);
  CancelLocked(model.get());
  model->ResetPopulatedBytes();
  jobs_.push_back(job);
  for (uint32_t i = 0; i < model->shards().size(); ++i) {
    const uint64_t size = model->shards()[i].file->size();
    for (uint64_t offset = 0; offset < size; offset += kPieceBytes) {
      pieces_.push_back({job, i, offset, std::min(kPieceBytes, size - offset)});
      ++job->pieces_left;
    }
  }
}

void Populator::Cancel(const Model& model) {
  absl::MutexLock lock(&mutex_);
  CancelLocked(&model);
  UnlockAll(model);
}

void Populator::CancelLocked(const Model* model) {
  std::erase_if(jobs_, [&](const std::weak_ptr<Job>& weak) {
    const std::shared_ptr<Job> job = weak.lock();
    if (job != nullptr && job->key == model) job->cancelled = true;
    return job == nullptr || job->cancelled;
  });
  std::erase_if(pieces_, [](const Piece& piece) { return piece.job->cancelled; });
}

void Populator::WaitUntilIdle() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(this, &Populator::Idle));
}

void Populator::Run() {
  absl::MutexLock lock(&mutex_);
  while (true) {
    mutex_.Await(absl::Condition(this, &Populator::HasWork));
    if (stopping_) return;
    const Piece piece = std::move(pieces_.front());
    pieces_.pop_front();
    ++busy_;
    mutex_.Unlock();
    Process(piece);
    mutex_.Lock();
    --busy_;
  }
}

void Populator::Process(const Piece& piece) {
  const std::shared_ptr<const Model> model = piece.job->model.lock();
  if (model == nullptr) return;
  const MappedFile& file = *model->shards()[piece.shard].file;
  const uint8_t* begin = file.data() + piece.offset;
  bool lock;
  {
    absl::MutexLock guard(&mutex_);
    if (piece.job->cancelled) return;
    lock = piece.job->lock;
  }
  // Populates first: what cannot be read shows as EFAULT there, mlock would not tell it apart.
  const int error = PopulatePages(begin, piece.bytes);
  const int lock_error = lock && error == 0 && lock_pages_(begin, piece.bytes) != 0 ? errno : 0;
  absl::Status intact = file.CheckIntact();
  bool last;
  {
    absl::MutexLock guard(&mutex_);
    Job& job = *piece.job;
    if (job.cancelled) {
      // Whoever cancelled may have unlocked before this piece was locked.
      if (lock) munlock(begin, piece.bytes);
      return;
    }
    if (!intact.ok()) {
      job.outcome.status = std::move(intact);
    } else if (error == ENOMEM) {
      job.outcome.note = absl::StrCat(file.path(), ": not enough memory to populate all pages");
    } else if (error != 0) {
      job.outcome.status = absl::DataLossError(absl::StrCat(file.path(), ": bytes ", piece.offset,
                                                            " to ", piece.offset + piece.bytes,
                                                            " cannot be read: ", strerror(error)));
    } else {
      model->AddPopulatedBytes(piece.bytes);
    }
    if (lock_error != 0 && job.lock) {
      job.lock = false;  // the pieces that follow are populated only
      job.outcome.note = absl::StrCat("pages cannot be locked (mlock: ", strerror(lock_error),
                                      "); they are populated only");
    }
    last = --job.pieces_left == 0;
  }
  if (last) Finish(*piece.job, model);
}

void Populator::Finish(Job& job, const std::shared_ptr<const Model>& model) {
  Outcome outcome;
  {
    absl::MutexLock lock(&mutex_);
    if (job.cancelled) return;
    outcome = job.outcome;
    outcome.locked = job.lock && outcome.status.ok() && outcome.note.empty();
  }
  if (!outcome.locked) UnlockAll(*model);
  if (job.finished) job.finished(model, outcome);
}

}  // namespace gguf_offload::store

#include "weightd/service/verify_stream.h"

#include <xxhash.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/grpc_status/status.h"

namespace gguf_offload {

VerifyStream* VerifyStream::Start(ServiceCore* core, const v1::VerifyModelRequest& request,
                                  CallGate::Pass pass) {
  std::shared_ptr<VerifyStream> stream(new VerifyStream(core, std::move(pass)));
  stream->self_ = stream;
  if (absl::Status status = stream->Open(request); !status.ok()) {
    absl::MutexLock lock(&stream->mutex_);
    stream->result_ = std::move(status);
  }
  stream->Advance();
  return stream.get();
}

absl::Status VerifyStream::Open(const v1::VerifyModelRequest& request) {
  absl::StatusOr<std::shared_ptr<const store::Model>> model = core_->store->Find(request.model());
  if (!model.ok()) return model.status();
  model_ = *std::move(model);
  end_ = model_->tensors().size();
  if (!request.tensor().empty()) {
    const std::optional<size_t> index = model_->FindTensor(request.tensor());
    if (!index.has_value()) {
      return absl::NotFoundError(absl::StrCat("model ", request.model(), " has no tensor \"",
                                              request.tensor().substr(0, 1024), "\""));
    }
    next_ = *index;
    end_ = next_ + 1;
  }
  for (size_t i = next_; i < end_; ++i) bytes_total_ += model_->tensors()[i].entry->bytes;
  return absl::OkStatus();
}

void VerifyStream::Advance() {
  bool step = false;
  std::optional<absl::Status> finish;
  {
    absl::MutexLock lock(&mutex_);
    if (finished_ || stepping_ || writing_) return;
    if (result_.has_value()) {
      finish = *result_;
      finished_ = true;
    } else {
      stepping_ = step = true;
    }
  }
  if (step) core_->hashing.Post([self = shared_from_this()] { self->Step(); });
  if (finish.has_value()) Finish(ToGrpc(*finish));
}

void VerifyStream::Step() {
  absl::Status status;
  bool last = next_ == end_;
  if (last) {
    ReportAll();
  } else {
    status = ReportTensor(next_++);
  }
  bool write = false;
  {
    absl::MutexLock lock(&mutex_);
    stepping_ = false;
    if (!result_.has_value()) {
      writing_ = write = status.ok();
      if (!status.ok()) result_ = std::move(status);
      if (last) result_ = absl::OkStatus();
    }
  }
  if (write) StartWrite(&report_);
  Advance();
}

absl::Status VerifyStream::ReportTensor(size_t index) {
  absl::StatusOr<store::ModelStore::TensorHash> hash = core_->store->HashTensor(*model_, index);
  if (!hash.ok()) return hash.status();
  const gguf::TensorEntry& entry = *model_->tensors()[index].entry;
  bytes_done_ += entry.bytes;
  if (hash->changed) ++changed_;
  for (int byte = 0; byte < 8; ++byte) {
    hashes_.push_back(static_cast<char>(hash->xxh64 >> (8 * byte)));
  }
  report_.Clear();
  report_.set_tensor(entry.name);
  report_.set_xxh64(hash->xxh64);
  report_.set_changed(hash->changed);
  report_.set_bytes_done(bytes_done_);
  report_.set_bytes_total(bytes_total_);
  return absl::OkStatus();
}

void VerifyStream::ReportAll() {
  report_.Clear();
  report_.set_bytes_done(bytes_done_);
  report_.set_bytes_total(bytes_total_);
  report_.set_done(true);
  report_.set_model_xxh64(XXH64(hashes_.data(), hashes_.size(), 0));
  report_.set_changed_tensors(changed_);
}

void VerifyStream::OnWriteDone(bool ok) {
  {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    if (!ok && !result_.has_value()) result_ = absl::CancelledError("the connection broke");
  }
  Advance();
}

void VerifyStream::OnCancel() {
  {
    absl::MutexLock lock(&mutex_);
    result_ = absl::CancelledError("cancelled");
  }
  Advance();
}

void VerifyStream::OnDone() {
  const std::shared_ptr<VerifyStream> self = std::move(self_);
  pass_ = CallGate::Pass();
}

}  // namespace gguf_offload

#include "weightd/service/read_stream.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/grpc_status/status.h"
#include "weightd/service/call_ref.h"

namespace gguf_offload {

ReadStream* ReadStream::Start(ServiceCore* core, grpc::CallbackServerContext* context,
                              const v1::ReadBlocksRequest& request, CallGate::Pass pass) {
  std::shared_ptr<ReadStream> stream(new ReadStream(core, context, std::move(pass)));
  stream->self_ = stream;
  absl::StatusOr<std::string> id = core->sessions.Add("stream", stream);
  {
    absl::MutexLock lock(&stream->mutex_);
    absl::Status status = id.status();
    if (id.ok()) {
      stream->id_ = *std::move(id);
      status = stream->Open(request);
    }
    if (!status.ok()) stream->Fail(std::move(status));
  }
  stream->Advance();
  return stream.get();
}

ReadStream::ReadStream(ServiceCore* core, grpc::CallbackServerContext* context, CallGate::Pass pass)
    : core_(core),
      context_(context),
      peer_(context->peer()),
      pass_(std::move(pass)),
      last_progress_(absl::Now()) {}

absl::Status ReadStream::Open(const v1::ReadBlocksRequest& request) {
  absl::StatusOr<std::shared_ptr<const store::Model>> model =
      core_->store->Find(request.model(), request.generation());
  if (!model.ok()) return model.status();
  const std::optional<size_t> tensor = (*model)->FindTensor(request.tensor());
  if (!tensor.has_value()) {
    return absl::NotFoundError(absl::StrCat("model ", request.model(), " has no tensor \"",
                                            request.tensor().substr(0, 1024), "\""));
  }
  const std::span<const uint8_t> bytes = (*model)->TensorBytes(*tensor);
  if (request.offset() > bytes.size() || request.bytes() > bytes.size() - request.offset()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", request.tensor(), ": ", request.bytes(), " bytes at offset ",
                     request.offset(), " lie beyond its ", bytes.size(), " bytes"));
  }
  model_ = *std::move(model);
  offset_ = request.offset();
  left_ =
      bytes.subspan(request.offset(), request.bytes() == 0 ? std::dynamic_extent : request.bytes());
  return absl::OkStatus();
}

void ReadStream::Fail(absl::Status status) {
  if (failure_.has_value()) return;
  failure_ = std::move(status);
  left_ = {};
}

void ReadStream::Advance() {
  bool prepare = false;
  std::optional<absl::Status> finish;
  {
    absl::MutexLock lock(&mutex_);
    if (finished_ || writing_ || preparing_) return;
    if (!left_.empty()) {
      preparing_ = prepare = true;
    } else {
      finish = failure_.value_or(absl::OkStatus());
      finished_ = true;
      last_progress_ = absl::Now();
    }
  }
  if (prepare) core_->work.Post([self = shared_from_this()] { self->Prepare(); });
  if (finish.has_value()) Finish(ToGrpc(*finish));
}

void ReadStream::Prepare() {
  std::span<const uint8_t> piece;
  std::shared_ptr<const store::Model> model;
  {
    absl::MutexLock lock(&mutex_);
    piece = left_.first(std::min<size_t>(left_.size(), kPiece));
    model = model_;
    outgoing_.set_offset(offset_);
    left_ = left_.subspan(piece.size());
    offset_ += piece.size();
    bytes_sent_ += piece.size();
  }
  const absl::Time start = absl::Now();
  outgoing_.set_data(piece.data(), piece.size());
  absl::Status intact = core_->store->CheckIntact(*model);
  if (intact.ok()) {
    core_->events().OnBlockRead(TransferEvents::Method::kReadBlocks, piece.size(),
                                absl::Now() - start);
  }
  bool write = false;
  {
    absl::MutexLock lock(&mutex_);
    preparing_ = false;
    last_progress_ = absl::Now();
    if (!intact.ok()) Fail(std::move(intact));
    if (!failure_.has_value()) writing_ = write = true;
  }
  if (write) StartWrite(&outgoing_);
  Advance();
}

void ReadStream::OnWriteDone(bool ok) {
  {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    last_progress_ = absl::Now();
    if (!ok) Fail(absl::CancelledError("the connection broke"));
  }
  Advance();
}

void ReadStream::OnCancel() {
  {
    absl::MutexLock lock(&mutex_);
    Fail(absl::CancelledError("cancelled"));
  }
  Advance();
}

void ReadStream::OnDone() {
  {
    absl::MutexLock lock(&mutex_);
    done_ = true;
    model_.reset();
  }
  core_->sessions.Remove(id_);
  const std::shared_ptr<ReadStream> self = std::move(self_);
  pass_ = CallGate::Pass();
}

void ReadStream::Describe(v1::Session& description) {
  absl::MutexLock lock(&mutex_);
  description.set_state("open");
  description.set_peer(peer_);
  description.set_transport("stream");
  description.set_bytes_sent(bytes_sent_);
  if (writing_) description.set_bytes_in_flight(outgoing_.data().size());
  if (model_ != nullptr) {
    description.set_model(model_->name());
    description.set_generation(model_->generation());
  }
}

void ReadStream::Tick(absl::Time now) {
  std::optional<CallRef> stuck;
  const absl::Status late = absl::DeadlineExceededError("the client does not read");
  {
    absl::MutexLock lock(&mutex_);
    const bool waits = writing_ || finished_;
    if (done_ || !waits || now - last_progress_ < core_->options.stream_timeout) return;
    Fail(late);
    stuck.emplace(context_);
  }
  stuck->Cancel(late);
}

}  // namespace gguf_offload

#include "weightd/service/attach_stream.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/grpc_status/status.h"
#include "common/log/log.h"
#include "weightd/manifest/manifest.h"
#include "weightd/service/call_ref.h"

namespace gguf_offload {
namespace {

constexpr size_t kManifestPiece = 1 << 20;
constexpr int kMaxHintRanges = 65536;
constexpr size_t kMaxWorkerName = 256;

TransferEvents::LeaseEnd LeaseEndOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return TransferEvents::LeaseEnd::kDetached;
    case absl::StatusCode::kCancelled:
      return TransferEvents::LeaseEnd::kBroken;
    case absl::StatusCode::kDeadlineExceeded:
      return TransferEvents::LeaseEnd::kTimedOut;
    case absl::StatusCode::kUnavailable:
      return TransferEvents::LeaseEnd::kDrained;
    default:
      return TransferEvents::LeaseEnd::kFailed;
  }
}

}  // namespace

AttachStream* AttachStream::Start(ServiceCore* core, grpc::CallbackServerContext* context,
                                  CallGate::Pass pass) {
  std::shared_ptr<AttachStream> stream(new AttachStream(core, context, std::move(pass)));
  stream->self_ = stream;
  absl::StatusOr<std::string> id = core->sessions.Add("lease", stream);
  if (id.ok()) {
    absl::MutexLock lock(&stream->mutex_);
    stream->id_ = *std::move(id);
  } else {
    absl::MutexLock lock(&stream->mutex_);
    stream->End(id.status());
  }
  stream->StartRead(&stream->incoming_);
  stream->Advance();
  return stream.get();
}

AttachStream::AttachStream(ServiceCore* core, grpc::CallbackServerContext* context,
                           CallGate::Pass pass)
    : core_(core),
      context_(context),
      peer_(context->peer()),
      pass_(std::move(pass)),
      last_progress_(absl::Now()) {}

void AttachStream::OnReadDone(bool ok) {
  bool read_on = false;
  {
    absl::MutexLock lock(&mutex_);
    const int hints = hints_;
    if (!ok) {
      End(absl::OkStatus());  // The worker detaches.
    } else if (absl::Status status = Handle(incoming_); !status.ok()) {
      End(std::move(status));
    }
    read_on = ok && !end_at_once_ && hints_ == hints;
  }
  if (read_on) StartRead(&incoming_);
  Advance();
}

absl::Status AttachStream::Handle(const v1::AttachRequest& request) {
  if (!start_received_) {
    if (!request.has_start()) {
      return absl::InvalidArgumentError("the first message must be AttachStart");
    }
    start_received_ = true;
    worker_ = request.start().worker().substr(0, kMaxWorkerName);
    transport_ = request.start().transport();
    beginning_ = true;
    core_->work.Post([self = shared_from_this(), start = request.start()] { self->Begin(start); });
    return absl::OkStatus();
  }
  if (!request.has_hint()) return absl::InvalidArgumentError("expected AttachHint");
  if (request.hint().ranges_size() > kMaxHintRanges) {
    return absl::InvalidArgumentError(
        absl::StrCat("more than ", kMaxHintRanges, " ranges in a hint"));
  }
  const std::shared_ptr<const store::Model> model = lease_.model();
  if (model == nullptr) return absl::OkStatus();  // Too early to be of use.
  // The next message is read when this hint has been followed.
  ++hints_;
  core_->work.Post(
      [self = shared_from_this(), hint = request.hint(), model] { self->Prefetch(hint, *model); });
  return absl::OkStatus();
}

void AttachStream::Prefetch(const v1::AttachHint& hint, const store::Model& model) {
  for (const v1::ByteRange& range : hint.ranges()) {
    core_->store->Prefetch(model, range.shard(), range.offset(), range.bytes());
  }
  bool read_on = false;
  {
    absl::MutexLock lock(&mutex_);
    read_on = !end_at_once_;
  }
  if (read_on) StartRead(&incoming_);
  {
    absl::MutexLock lock(&mutex_);
    --hints_;
  }
  Advance();
}

void AttachStream::Begin(const v1::AttachStart& start) {
  absl::Status status = TakeLease(start);
  {
    absl::MutexLock lock(&mutex_);
    beginning_ = false;
    last_progress_ = absl::Now();
    if (!status.ok()) End(std::move(status));
  }
  Advance();
}

absl::Status AttachStream::TakeLease(const v1::AttachStart& start) {
  if (start.transport() != v1::TRANSPORT_SHARED_MEMORY &&
      start.transport() != v1::TRANSPORT_STREAM) {
    return absl::InvalidArgumentError("transport must be shared memory or stream");
  }
  absl::StatusOr<std::shared_ptr<const store::Model>> model =
      core_->store->Find(start.model(), start.generation());
  if (!model.ok()) return model.status();
  std::weak_ptr<AttachStream> weak = weak_from_this();
  absl::StatusOr<store::Lease> lease =
      core_->store->AcquireLease(*model, [weak](const store::ModelEvent& event) {
        if (const auto self = weak.lock()) self->OnEvent(event);
      });
  if (!lease.ok()) return lease.status();

  v1::AttachStarted started;
  std::optional<shm::Ticket> ticket;
  if (start.transport() == v1::TRANSPORT_SHARED_MEMORY) {
    absl::StatusOr<shm::Ticket> issued = IssueTicket(*model);
    if (!issued.ok()) return issued.status();
    ticket = *issued;
    started.set_socket_path(core_->options.socket_path);
    started.set_ticket(issued->data(), issued->size());
  }
  std::string manifest;
  if (start.generation() == 0) manifest = BuildManifest(**model).SerializeAsString();
  started.set_generation((*model)->generation());
  started.set_manifest_bytes(manifest.size());

  absl::MutexLock lock(&mutex_);
  if (finished_) {  // Without the lease, which ends here.
    if (ticket.has_value()) core_->tickets.Revoke(*ticket);
    return absl::OkStatus();
  }
  started.set_lease_id(id_);
  lease_ = *std::move(lease);
  ticket_ = ticket;
  started_ = std::move(started);
  manifest_ = std::move(manifest);
  populated_sent_ = (*model)->populated_bytes();
  Log(LogLevel::kInfo, "attached",
      {{"lease", id_}, {"model", (*model)->name()}, {"worker", worker_}, {"peer", peer_}});
  return absl::OkStatus();
}

absl::StatusOr<shm::Ticket> AttachStream::IssueTicket(
    const std::shared_ptr<const store::Model>& model) {
  if (core_->options.socket_path.empty()) {
    return absl::FailedPreconditionError(
        "shared memory needs the daemon's Unix socket, and it has none (flag --socket)");
  }
  shm::Handoff handoff{{}, model, model->name()};
  for (const store::Model::Shard& shard : model->shards()) {
    handoff.descriptors.push_back(shard.file->fd());
  }
  return core_->tickets.Issue(std::move(handoff));
}

void AttachStream::OnEvent(const store::ModelEvent& event) {
  {
    absl::MutexLock lock(&mutex_);
    switch (event.kind) {
      case store::ModelEvent::Kind::kNewGeneration:
        new_generation_ = event.generation;
        break;
      case store::ModelEvent::Kind::kUnloaded:
        drain_ = "the model was unloaded";
        break;
      case store::ModelEvent::Kind::kQuarantined:
        data_loss_ = event.message;
        break;
    }
  }
  Advance();
}

void AttachStream::End(absl::Status status) {
  // A broken connection is told as a failed read and as a cancellation, in either order.
  if (!end_.has_value() || end_->ok()) end_ = std::move(status);
  end_at_once_ = true;
}

bool AttachStream::NextMessage(v1::AttachResponse& message) {
  message.Clear();
  if (started_.has_value()) {
    *message.mutable_started() = *std::move(started_);
    started_.reset();
  } else if (lease_.model() == nullptr) {
    return false;  // Events wait for AttachStarted.
  } else if (manifest_sent_ < manifest_.size()) {
    const size_t bytes = std::min(kManifestPiece, manifest_.size() - manifest_sent_);
    message.mutable_manifest()->set_data(manifest_.data() + manifest_sent_, bytes);
    manifest_sent_ += bytes;
    if (manifest_sent_ == manifest_.size()) {
      message.mutable_manifest()->set_last(true);
      manifest_ = std::string();
      manifest_sent_ = 0;
    }
  } else if (data_loss_.has_value()) {
    message.mutable_event()->set_data_loss(*std::exchange(data_loss_, std::nullopt));
  } else if (new_generation_.has_value()) {
    message.mutable_event()->set_new_generation(*std::exchange(new_generation_, std::nullopt));
  } else if (drain_.has_value()) {
    message.mutable_event()->set_drain(*std::exchange(drain_, std::nullopt));
  } else if (const uint64_t populated = lease_.model()->populated_bytes();
             populated != populated_sent_) {
    populated_sent_ = populated;
    message.mutable_event()->set_populated_bytes(populated);
  } else {
    return false;
  }
  return true;
}

void AttachStream::Advance() {
  bool write = false;
  std::optional<absl::Status> finish;
  {
    absl::MutexLock lock(&mutex_);
    if (finished_ || writing_) return;
    if (!end_at_once_ && NextMessage(outgoing_)) {
      writing_ = write = true;
      last_progress_ = absl::Now();
    } else if (end_.has_value() && !beginning_ && hints_ == 0) {
      finish = *end_;
      finished_ = true;
      last_progress_ = absl::Now();
    }
  }
  // Without the lock: only one thread gets here for each, and the call cannot be done meanwhile.
  if (write) StartWrite(&outgoing_);
  if (finish.has_value()) Finish(ToGrpc(*finish));
}

void AttachStream::OnWriteDone(bool ok) {
  {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    last_progress_ = absl::Now();
    if (!ok) End(absl::CancelledError("the connection broke"));
  }
  Advance();
}

void AttachStream::OnCancel() {
  {
    absl::MutexLock lock(&mutex_);
    End(absl::CancelledError("cancelled"));
  }
  Advance();
}

void AttachStream::OnDone() {
  // Ends without the lock, as it waits for events that are being told.
  store::Lease lease;
  absl::Status how;
  {
    absl::MutexLock lock(&mutex_);
    done_ = true;
    how = end_.value_or(absl::CancelledError());
    lease = std::move(lease_);
    if (ticket_.has_value()) core_->tickets.Revoke(*ticket_);
  }
  if (lease.model() != nullptr) {
    core_->events().OnLeaseEnd(LeaseEndOf(how));
    Log(LogLevel::kInfo, "detached", {{"lease", id_}, {"model", lease.model()->name()}});
  }
  lease = store::Lease();
  core_->sessions.Remove(id_);
  const std::shared_ptr<AttachStream> self = std::move(self_);
  pass_ = CallGate::Pass();
}

void AttachStream::Describe(v1::Session& description) {
  absl::MutexLock lock(&mutex_);
  description.set_state(end_.has_value() ? "closing" : "open");
  description.set_peer(worker_.empty() ? peer_ : worker_);
  if (lease_.model() != nullptr) {
    description.set_model(lease_.model()->name());
    description.set_generation(lease_.model()->generation());
  }
  if (transport_ == v1::TRANSPORT_SHARED_MEMORY) description.set_transport("shared_memory");
  if (transport_ == v1::TRANSPORT_STREAM) description.set_transport("stream");
}

void AttachStream::Tick(absl::Time now) {
  std::optional<CallRef> stuck;
  const absl::Status late =
      absl::DeadlineExceededError("the worker does not read, or has not sent AttachStart");
  {
    absl::MutexLock lock(&mutex_);
    const bool waits = writing_ || !start_received_ || finished_;
    if (!done_ && waits && now - last_progress_ >= core_->options.stream_timeout) {
      End(late);
      if (writing_ || finished_) stuck.emplace(context_);
    }
  }
  if (stuck.has_value()) stuck->Cancel(late);
  Advance();
}

void AttachStream::Drain() {
  {
    absl::MutexLock lock(&mutex_);
    if (end_.has_value()) return;
    drain_ = "the daemon is going to stop";
    end_ = absl::UnavailableError("the daemon is draining");
    if (!start_received_) end_at_once_ = true;
  }
  Advance();
}

}  // namespace gguf_offload

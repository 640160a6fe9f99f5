#include "weightd/client/lease_keeper.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/grpc_status/status.h"
#include "weightd/client/manifest_check.h"

namespace gguf_offload {
namespace {

constexpr absl::Duration kFirstPause = absl::Milliseconds(20);
constexpr absl::Duration kLongestPause = absl::Seconds(1);
// How long a daemon may take to answer a goodbye.
constexpr absl::Duration kGoodbyePatience = absl::Milliseconds(300);
// Vocabularies of the largest models need some 20 MiB.
constexpr uint64_t kMaxManifestBytes = uint64_t{512} << 20;

// Whether the same request may succeed later: the daemon is away, draining or overloaded.
bool Transient(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsCancelled(status) ||
         absl::IsDeadlineExceeded(status) || absl::IsResourceExhausted(status);
}

}  // namespace

absl::StatusOr<std::unique_ptr<LeaseKeeper>> LeaseKeeper::Attach(Options options,
                                                                 absl::Time deadline) {
  std::unique_ptr<LeaseKeeper> keeper(new LeaseKeeper(std::move(options)));
  keeper->thread_ = std::thread([k = keeper.get()] { k->Run(); });
  absl::MutexLock lock(&keeper->mutex_);
  const auto decided = [k = keeper.get()]() ABSL_SHARED_LOCKS_REQUIRED(k->mutex_) {
    return k->ever_attached_ || k->gave_up_;
  };
  const bool in_time = keeper->mutex_.AwaitWithDeadline(absl::Condition(&decided), deadline);
  if (keeper->ever_attached_) return keeper;
  if (in_time) return keeper->last_failure_;
  return absl::DeadlineExceededError(absl::StrCat(
      "model ", keeper->options_.model, ": no weight daemon answers: ",
      keeper->last_failure_.ok() ? "nothing heard from it" : keeper->last_failure_.ToString()));
}

LeaseKeeper::LeaseKeeper(Options options)
    : options_(std::move(options)), stub_(v1::WeightService::NewStub(options_.channel)) {}

LeaseKeeper::~LeaseKeeper() {
  SayGoodbye();
  if (thread_.joinable()) thread_.join();
}

void LeaseKeeper::SayGoodbye() {
  std::thread closer;
  absl::MutexLock lock(&mutex_);
  stopping_ = true;
  if (stream_ != nullptr && attached_) {
    closing_ = true;
    // Elsewhere, as it waits for the network.
    closer = std::thread([this, stream = stream_] {
      stream->WritesDone();
      absl::MutexLock lock(&mutex_);
      closing_ = false;
    });
    const auto over = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return context_ == nullptr; };
    mutex_.AwaitWithTimeout(absl::Condition(&over), kGoodbyePatience);
  }
  if (context_ != nullptr) context_->TryCancel();
  if (!closer.joinable()) return;
  mutex_.Unlock();
  closer.join();
  mutex_.Lock();
}

bool LeaseKeeper::attached() const {
  absl::MutexLock lock(&mutex_);
  return attached_;
}

absl::Status LeaseKeeper::CheckIntact() const {
  absl::MutexLock lock(&mutex_);
  return data_loss_;
}

void LeaseKeeper::ReportDataLoss(absl::Status status) {
  absl::MutexLock lock(&mutex_);
  if (data_loss_.ok()) data_loss_ = std::move(status);
}

void LeaseKeeper::Log(std::string_view line) const {
  if (options_.log) options_.log(line);
}

void LeaseKeeper::Run() {
  absl::Duration pause = kFirstPause;
  for (;;) {
    grpc::ClientContext context;
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) return;
      context_ = &context;
    }
    const absl::Status why = Hold(context);
    bool was_attached = false;
    {
      absl::MutexLock lock(&mutex_);
      context_ = nullptr;
      was_attached = std::exchange(attached_, false);
    }
    if (!TryAgain(why, was_attached)) return;
    pause = was_attached ? kFirstPause : std::min(2 * pause, kLongestPause);
    absl::MutexLock lock(&mutex_);
    if (mutex_.AwaitWithTimeout(absl::Condition(&stopping_), pause)) return;
  }
}

bool LeaseKeeper::TryAgain(const absl::Status& why, bool was_attached) {
  std::string line;
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) return false;
    last_failure_ = why;
    if (options_.counters != nullptr && !was_attached) ++options_.counters->attach_failures;
    if (!ever_attached_) {
      gave_up_ = !Transient(why);
      return !gave_up_;
    }
    // A worker goes on with what it has, so it tries for as long as it lives; but the same story is
    // told once.
    const std::string code = absl::StatusCodeToString(why.code());
    if (code == logged_failure_) return true;
    logged_failure_ = code;
    line =
        absl::StrCat("detached from model ", options_.model, ", attaching again: ", why.ToString());
  }
  Log(line);
  return true;
}

absl::Status LeaseKeeper::Hold(grpc::ClientContext& context) {
  const auto stream = stub_->Attach(&context);
  {
    absl::MutexLock lock(&mutex_);
    stream_ = stream.get();
  }
  v1::AttachRequest request;
  request.mutable_start()->set_model(options_.model);
  request.mutable_start()->set_transport(options_.transport);
  request.mutable_start()->set_worker(options_.worker);
  request.mutable_start()->set_generation(manifest_.generation());
  stream->Write(request);

  v1::AttachStarted started;
  std::string manifest;
  v1::AttachResponse response;
  absl::Status status;
  while (status.ok() && stream->Read(&response)) {
    switch (response.message_case()) {
      case v1::AttachResponse::kStarted:
        started = response.started();
        manifest.clear();
        status = TakeStarted(started);
        break;
      case v1::AttachResponse::kManifest:
        if (response.manifest().data().size() > started.manifest_bytes() - manifest.size()) {
          status = absl::FailedPreconditionError("a manifest larger than announced");
          break;
        }
        manifest += response.manifest().data();
        if (response.manifest().last()) {
          status = TakeManifest(started.generation(), std::exchange(manifest, {}));
        }
        break;
      case v1::AttachResponse::kEvent:
        TakeEvent(response.event());
        break;
      default:
        break;  // Of a newer daemon.
    }
  }
  if (!status.ok()) context.TryCancel();
  const absl::Status end = FromGrpc(stream->Finish());
  {
    absl::MutexLock lock(&mutex_);
    stream_ = nullptr;
    const auto unused = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !closing_; };
    mutex_.Await(absl::Condition(&unused));
  }
  if (!status.ok()) return status;
  return end.ok() ? absl::UnavailableError("the daemon ended the lease") : end;
}

absl::Status LeaseKeeper::TakeStarted(const v1::AttachStarted& started) {
  if (manifest_.generation() != 0) {
    if (started.generation() != manifest_.generation()) {
      return absl::FailedPreconditionError(absl::StrCat("the daemon leases generation ",
                                                        started.generation(), " instead of ",
                                                        manifest_.generation()));
    }
    SetAttached();
    return absl::OkStatus();
  }
  if (started.manifest_bytes() == 0 || started.manifest_bytes() > kMaxManifestBytes) {
    return absl::FailedPreconditionError(
        absl::StrCat("a manifest of ", started.manifest_bytes(), " bytes"));
  }
  ticket_ = started.ticket();
  return absl::OkStatus();
}

absl::Status LeaseKeeper::TakeManifest(uint64_t generation, const std::string& serialized) {
  if (manifest_.generation() != 0) return absl::FailedPreconditionError("a second manifest");
  v1::Manifest manifest;
  if (!manifest.ParseFromString(serialized)) {
    return absl::FailedPreconditionError("the manifest cannot be parsed");
  }
  absl::Status status = CheckManifest(manifest, options_.model, generation);
  if (!status.ok()) return status;
  manifest_ = std::move(manifest);
  SetAttached();
  return absl::OkStatus();
}

void LeaseKeeper::SetAttached() {
  bool again = false;
  {
    absl::MutexLock lock(&mutex_);
    again = std::exchange(ever_attached_, true);
    attached_ = true;
    logged_failure_.clear();
  }
  if (again && options_.counters != nullptr) ++options_.counters->reconnects;
  if (again) Log(absl::StrCat("attached to model ", options_.model, " again"));
}

void LeaseKeeper::TakeEvent(const v1::AttachEvent& event) {
  switch (event.event_case()) {
    case v1::AttachEvent::kNewGeneration:
      Log(absl::StrCat("model ", options_.model, " has a new generation, ", event.new_generation(),
                       "; going on with ", manifest_.generation()));
      break;
    case v1::AttachEvent::kDrain:
      Log(absl::StrCat("model ", options_.model, ": ", event.drain()));
      break;
    case v1::AttachEvent::kDataLoss:
      ReportDataLoss(absl::DataLossError(event.data_loss()));
      Log(absl::StrCat("model ", options_.model, " is damaged: ", event.data_loss()));
      break;
    default:
      break;
  }
}

}  // namespace gguf_offload

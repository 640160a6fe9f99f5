#include "weightd/client/streaming_source.h"

#include <grpcpp/client_context.h>
#include <malloc.h>
#include <xxhash.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/grpc_status/status.h"
#include "weightd/client/channel.h"
#include "weightd/client/manifest_check.h"

namespace gguf_offload {
namespace {

constexpr char kMethod[] = "/gguf_offload.v1.WeightService/StreamBlocks";
constexpr absl::Duration kFirstPause = absl::Milliseconds(20);
constexpr absl::Duration kLongestPause = absl::Seconds(1);
// What the daemon allows at most (StreamBlocks).
constexpr uint64_t kMaxCredit = uint64_t{256} << 20;
constexpr uint64_t kMinCredit = uint64_t{4} << 20;
// Larger chunks cost less work a byte on both sides (256 KiB: a quarter more than 1 MiB).
constexpr uint32_t kChunkBytes = 1 << 20;
constexpr size_t kMaxRequestIds = 16;

// Whether asking again is of no use: what the daemon says about the model, not about itself.
bool Final(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kUnimplemented:
      return true;
    default:
      return false;
  }
}

// gRPC receives into slices of 64 KiB from malloc and frees them megabytes at a time, which glibc
// by default gives back to the system at once, only to fault them in again: a third of all time
// spent in receiving. Kept instead: up to this much.
void KeepFreedMemory() {
  static std::once_flag once;
  std::call_once(once, [] { mallopt(M_TRIM_THRESHOLD, 256 << 20); });
}

void* Tag(int operation) { return reinterpret_cast<void*>(static_cast<intptr_t>(operation)); }

// There is one call at a time, so a tag need not say which.
enum Operation { kStart = 1, kRead, kWrite, kFinish, kAlarm };

}  // namespace

struct StreamingSource::Call {
  grpc::ClientContext context;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream;
  grpc::ByteBuffer incoming;
  grpc::Status status;
  absl::Status broken;  // why this side gave it up
  bool ready = false;   // StreamStart has been written
  bool writing = false;
  bool closed = false;  // the daemon takes no more messages
  bool reading = false;
  bool starting = true;
  bool finishing = false;
  bool finished = false;
  bool progress = false;  // a chunk has arrived
};

absl::StatusOr<std::unique_ptr<WeightSource>> StreamingSource::Attach(const Options& options) {
  KeepFreedMemory();
  const absl::Time deadline = absl::Now() + options.attach_timeout;
  auto channel = OpenChannel(options.address, options.credentials, options.server_name);
  auto lease = LeaseKeeper::Attach({.channel = channel,
                                    .model = options.model,
                                    .worker = options.worker,
                                    .transport = v1::TRANSPORT_STREAM,
                                    .log = options.log,
                                    .counters = options.counters},
                                   deadline);
  if (!lease.ok()) return lease.status();
  return std::unique_ptr<WeightSource>(
      new StreamingSource(options, std::move(channel), *std::move(lease)));
}

StreamingSource::StreamingSource(const Options& options, std::shared_ptr<grpc::Channel> channel,
                                 std::unique_ptr<LeaseKeeper> lease)
    : options_([&] {
        Options o = options;
        o.credit_bytes = std::clamp(o.credit_bytes, kMinCredit, kMaxCredit);
        return o;
      }()),
      lease_(std::move(lease)),
      stub_(std::move(channel)),
      reads_({.requested_bytes = 2 * options_.credit_bytes}),
      pause_(kFirstPause) {
  thread_ = std::thread([this] { Run(); });
}

StreamingSource::~StreamingSource() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    Wake();
  }
  thread_.join();
}

void StreamingSource::Log(std::string_view line) const {
  if (options_.log) options_.log(line);
}

void StreamingSource::ReadAsync(std::vector<Range> ranges, absl::Time deadline,
                                std::function<void(absl::Status)> done) {
  for (const Range& range : ranges) {
    absl::Status inside = CheckRange(manifest(), range.shard, range.offset, range.bytes);
    if (!inside.ok()) return done(std::move(inside));
  }
  if (absl::Status s = CheckIntact(); !s.ok()) return done(std::move(s));
  bool nothing = true;
  for (const Range& range : ranges) nothing = nothing && range.bytes == 0;
  absl::MutexLock lock(&mutex_);
  reads_.Add(std::move(ranges), deadline, std::move(done));
  if (call_ != nullptr && call_->ready) Write();
  // A stream has to be opened, or the thread sleeps for too long, or a read of nothing is done.
  if (call_ == nullptr || deadline < awake_at_ || nothing) Wake();
}

void StreamingSource::Wake() {
  if (alarm_ != nullptr) return;
  alarm_ = std::make_unique<grpc::Alarm>();
  alarm_->Set(&queue_, gpr_time_0(GPR_CLOCK_REALTIME), Tag(kAlarm));
}

void StreamingSource::Run() {
  for (;;) {
    absl::Time until;
    {
      absl::MutexLock lock(&mutex_);
      const absl::Time now = absl::Now();
      reads_.Expire(now, last_failure_);
      if (stopping_) {
        reads_.FailAll(absl::CancelledError("the weight source is being destroyed"));
        if (call_ == nullptr && alarm_ == nullptr) break;
        if (call_ != nullptr) Break(absl::CancelledError("stopping"));
      } else if (call_ == nullptr && !reads_.empty() && now >= next_attempt_) {
        Open();
      }
      awake_at_ = until = NextWake();
    }
    TellFinished();
    void* tag = nullptr;
    bool ok = false;
    if (queue_.AsyncNext(&tag, &ok, absl::ToChronoTime(until)) !=
        grpc::CompletionQueue::GOT_EVENT) {
      continue;
    }
    const int operation = static_cast<int>(reinterpret_cast<intptr_t>(tag));
    if (operation == kRead) OnRead(ok);
    absl::MutexLock lock(&mutex_);
    if (operation == kStart) OnStarted(ok);
    if (operation == kWrite) OnWritten(ok);
    if (operation == kFinish) call_->finished = true;
    if (operation == kAlarm) alarm_.reset();
    SettleIfOver();
  }
  TellFinished();
  queue_.Shutdown();
  void* tag;
  bool ok;
  while (queue_.Next(&tag, &ok)) {
  }
}

absl::Time StreamingSource::NextWake() {
  absl::Time next = reads_.NextDeadline();
  if (call_ == nullptr && !reads_.empty()) next = std::min(next, next_attempt_);
  // absl::ToChronoTime cannot express the infinite future.
  return std::min(next, absl::Now() + absl::Hours(1));
}

void StreamingSource::Open() {
  call_ = std::make_unique<Call>();
  consumed_ = 0;
  call_->stream = stub_.PrepareCall(&call_->context, kMethod, &queue_);
  call_->stream->StartCall(Tag(kStart));
}

void StreamingSource::OnStarted(bool ok) {
  call_->starting = false;
  if (!ok || call_->finishing) return Break(absl::OkStatus());
  v1::StreamBlocksRequest request;
  v1::StreamStart& start = *request.mutable_start();
  start.set_model(options_.model);
  start.set_generation(manifest().generation());
  start.set_chunk_bytes(kChunkBytes);
  start.set_initial_credit(options_.credit_bytes);
  start.set_no_checksums(!options_.checksums);
  Send(request);
  call_->reading = true;
  call_->stream->Read(&call_->incoming, Tag(kRead));
}

void StreamingSource::SetRequestIds(std::vector<std::string> ids) {
  ids.resize(std::min<size_t>(ids.size(), kMaxRequestIds));
  absl::MutexLock lock(&mutex_);
  request_ids_ = std::move(ids);
}

void StreamingSource::Send(const v1::StreamBlocksRequest& request) {
  const grpc::Slice slice(request.SerializeAsString());
  call_->writing = true;
  call_->stream->Write(grpc::ByteBuffer(&slice, 1), Tag(kWrite));
}

void StreamingSource::Write() {
  if (call_->writing || call_->closed || call_->finishing) return;
  v1::StreamBlocksRequest request;
  if (consumed_ >= options_.credit_bytes / 4) {
    request.mutable_credit()->set_bytes(std::exchange(consumed_, 0));
  } else if (const std::optional<PendingReads::Request> next = reads_.NextRequest()) {
    v1::StreamRead& read = *request.mutable_read();
    read.set_read_id(next->read_id);
    read.mutable_range()->set_shard(next->shard);
    read.mutable_range()->set_offset(next->offset);
    read.mutable_range()->set_bytes(next->bytes);
    read.mutable_request_ids()->Assign(request_ids_.begin(), request_ids_.end());
  } else {
    return;
  }
  Send(request);
}

void StreamingSource::OnWritten(bool ok) {
  call_->writing = false;
  call_->ready = true;
  // The daemon has ended the stream. That is settled when all that had arrived before has been
  // read: until then gRPC would not tell the status, and Finish would wait for ever.
  if (!ok) call_->closed = true;
  Write();
}

void StreamingSource::OnRead(bool ok) {
  // The call is this thread's to end, and the bytes are copied without the lock.
  Call* call = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    call = call_.get();
    call->reading = false;
    if (!ok || call->finishing) return Break(absl::OkStatus());
  }
  absl::Status status = TakeMessage(call->incoming);
  call->incoming.Clear();
  absl::MutexLock lock(&mutex_);
  if (!status.ok()) return Break(std::move(status));
  call->reading = true;
  call->stream->Read(&call->incoming, Tag(kRead));
  Write();
}

absl::Status StreamingSource::TakeMessage(const grpc::ByteBuffer& message) {
  absl::StatusOr<DecodedResponse> response = DecodedResponse::Decode(message);
  if (!response.ok()) return absl::InternalError(response.status().message());
  if (response->is_chunk()) return TakeChunk(*response);
  if (response->started().has_value() &&
      response->started()->generation() != manifest().generation()) {
    return absl::FailedPreconditionError(absl::StrCat("the daemon streams generation ",
                                                      response->started()->generation(),
                                                      " instead of ", manifest().generation()));
  }
  return absl::OkStatus();
}

absl::Status StreamingSource::TakeChunk(const DecodedResponse& response) {
  const PendingReads::Chunk chunk{response.read_id(), response.offset(), response.data_bytes(),
                                  response.last()};
  uint8_t* to = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    absl::StatusOr<uint8_t*> expected = reads_.Expect(chunk);
    if (!expected.ok()) return absl::InternalError(expected.status().message());
    to = *expected;
  }
  // Reads end in this thread only, so the destination stays wanted meanwhile.
  bool intact = true;
  if (to != nullptr) {
    response.CopyData(to);
    intact = !options_.checksums || XXH64(to, chunk.bytes, 0) == response.xxh64();
  }
  bytes_received_ += chunk.bytes;
  if (!intact) {
    if (options_.counters != nullptr) ++options_.counters->checksum_failures;
    Log(absl::StrCat("model ", options_.model, ": ", chunk.bytes, " bytes at offset ", chunk.offset,
                     " arrived with a wrong checksum"));
  }
  {
    absl::MutexLock lock(&mutex_);
    reads_.Store(chunk, intact);
    consumed_ += chunk.bytes;
    call_->progress = true;
  }
  TellFinished();
  return absl::OkStatus();
}

void StreamingSource::Break(absl::Status why) {
  if (call_->broken.ok() && !why.ok()) call_->broken = std::move(why);
  if (!call_->broken.ok()) call_->context.TryCancel();
  if (std::exchange(call_->finishing, true)) return;
  call_->stream->Finish(&call_->status, Tag(kFinish));
}

void StreamingSource::SettleIfOver() {
  if (call_ == nullptr || !call_->finished) return;
  if (call_->starting || call_->reading || call_->writing) return;
  absl::Status status = call_->broken.ok() ? FromGrpc(call_->status) : call_->broken;
  if (status.ok()) status = absl::UnavailableError("the daemon ended the stream");
  Settle(status);
}

void StreamingSource::Settle(const absl::Status& status) {
  const bool progress = call_->progress;
  call_.reset();
  reads_.StreamLost();
  last_failure_ = status;
  if (options_.counters != nullptr && !stopping_) ++options_.counters->stream_failures;
  if (absl::IsDataLoss(status)) lease_->ReportDataLoss(status);
  if (Final(status)) {
    reads_.FailAll(status);
    pause_ = kFirstPause;
    next_attempt_ = absl::InfinitePast();
    return;
  }
  pause_ = progress ? kFirstPause : std::min(2 * pause_, kLongestPause);
  next_attempt_ = absl::Now() + pause_;
}

void StreamingSource::TellFinished() {
  std::vector<PendingReads::Finished> finished;
  {
    absl::MutexLock lock(&mutex_);
    finished = reads_.TakeFinished();
  }
  for (PendingReads::Finished& read : finished) read.done(std::move(read.status));
}

}  // namespace gguf_offload

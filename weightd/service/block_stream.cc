#include "weightd/service/block_stream.h"

#include <grpcpp/support/proto_buffer_reader.h>
#include <xxhash.h>

#include <algorithm>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/daemon/request_id.h"
#include "common/grpc_status/status.h"
#include "common/log/log.h"
#include "weightd/service/call_ref.h"
#include "weightd/service/chunk_encoding.h"

namespace gguf_offload {
namespace {

// Reads a byte of every page, so that a page that has vanished is noticed here and not by the
// kernel in the middle of a send.
void TouchPages(std::span<const uint8_t> data) {
  uint8_t sum = 0;
  for (size_t at = 0; at < data.size(); at += 4096) sum ^= data[at];
  if (!data.empty()) sum ^= data.back();
  asm volatile("" : : "r"(sum));
}

}  // namespace

BlockStream* BlockStream::Start(ServiceCore* core, grpc::CallbackServerContext* context,
                                CallGate::Pass pass) {
  std::shared_ptr<BlockStream> stream(new BlockStream(core, context, std::move(pass)));
  stream->self_ = stream;
  absl::StatusOr<std::string> id = core->sessions.Add("stream", stream);
  if (id.ok()) {
    absl::MutexLock lock(&stream->mutex_);
    stream->id_ = *std::move(id);
  } else {
    absl::MutexLock lock(&stream->mutex_);
    stream->Fail(id.status());
  }
  stream->StartRead(&stream->incoming_);
  stream->Advance();
  return stream.get();
}

BlockStream::BlockStream(ServiceCore* core, grpc::CallbackServerContext* context,
                         CallGate::Pass pass)
    : core_(core),
      context_(context),
      peer_(context->peer()),
      pass_(std::move(pass)),
      last_progress_(absl::Now()) {}

void BlockStream::OnReadDone(bool ok) {
  bool read_on = ok;
  if (!ok) {
    absl::MutexLock lock(&mutex_);
    if (!end_.has_value()) end_ = absl::OkStatus();
  } else {
    v1::StreamBlocksRequest request;
    grpc::ProtoBufferReader reader(&incoming_);
    const bool parsed = reader.status().ok() && request.ParseFromZeroCopyStream(&reader);
    absl::MutexLock lock(&mutex_);
    absl::Status status =
        parsed ? Handle(request) : absl::InvalidArgumentError("not a StreamBlocksRequest");
    if (!status.ok()) Fail(std::move(status));
    read_on = !failure_.has_value();
  }
  if (read_on) {
    incoming_.Clear();
    StartRead(&incoming_);
  }
  Advance();
}

absl::Status BlockStream::Handle(const v1::StreamBlocksRequest& request) {
  if (model_ == nullptr) {
    if (!request.has_start()) {
      return absl::InvalidArgumentError("the first message must be StreamStart");
    }
    return HandleStart(request.start());
  }
  switch (request.message_case()) {
    case v1::StreamBlocksRequest::kRead:
      return HandleRead(request.read());
    case v1::StreamBlocksRequest::kCredit:
      return AddCredit(request.credit().bytes());
    case v1::StreamBlocksRequest::kStart:
      return absl::InvalidArgumentError("StreamStart was sent before");
    default:
      return absl::InvalidArgumentError("a message without contents");
  }
}

absl::Status BlockStream::HandleStart(const v1::StreamStart& start) {
  chunk_bytes_ = start.chunk_bytes() == 0 ? kDefaultChunkBytes : start.chunk_bytes();
  if (chunk_bytes_ < kMinChunkBytes || chunk_bytes_ > kMaxChunkBytes) {
    return absl::InvalidArgumentError(absl::StrCat("chunk_bytes ", chunk_bytes_, " is not ",
                                                   kMinChunkBytes, " to ", kMaxChunkBytes));
  }
  checksums_ = !start.no_checksums();
  absl::StatusOr<std::shared_ptr<const store::Model>> model =
      core_->store->Find(start.model(), start.generation());
  if (!model.ok()) return model.status();
  model_ = *std::move(model);
  v1::StreamBlocksResponse response;
  response.mutable_started()->set_generation(model_->generation());
  response.mutable_started()->set_chunk_bytes(chunk_bytes_);
  ready_ = EncodeMessage(response);
  return AddCredit(start.initial_credit());
}

void BlockStream::LogRead(const v1::StreamRead& read) const {
  std::string ids;
  for (const std::string& id : read.request_ids()) {
    if (IsRequestId(id) && ids.size() < 1024) absl::StrAppend(&ids, ids.empty() ? "" : ",", id);
  }
  Log(LogLevel::kDebug, "read",
      {{"stream", id_},
       {"model", model_->name()},
       {"shard", read.range().shard()},
       {"offset", read.range().offset()},
       {"bytes", read.range().bytes()},
       {"request_ids", ids}});
}

absl::Status BlockStream::HandleRead(const v1::StreamRead& read) {
  if (end_.has_value()) return absl::OkStatus();  // Draining: the client asks again elsewhere.
  const v1::ByteRange& range = read.range();
  if (range.shard() >= model_->shards().size()) {
    return absl::InvalidArgumentError(absl::StrCat("model ", model_->name(), " has no shard ",
                                                   range.shard(), ", only ",
                                                   model_->shards().size()));
  }
  const store::MappedFile& file = *model_->shards()[range.shard()].file;
  if (range.offset() > file.size() || range.bytes() > file.size() - range.offset()) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(file.base_name()), ": ", range.bytes(), " bytes at offset ",
                     range.offset(), " lie beyond the file's ", file.size(), " bytes"));
  }
  if (reads_.size() >= kMaxQueuedReads) {
    return absl::ResourceExhaustedError(
        absl::StrCat("more than ", kMaxQueuedReads, " reads are waiting"));
  }
  if (CurrentLogLevel() <= LogLevel::kDebug) LogRead(read);
  // The time that a read is owed begins with it.
  if (!OwesData()) last_progress_ = absl::Now();
  reads_.push_back({read.read_id(), range.shard(), range.offset(), range.bytes()});
  return absl::OkStatus();
}

absl::Status BlockStream::AddCredit(uint64_t bytes) {
  if (bytes > kMaxCredit - credit_) {
    return absl::InvalidArgumentError(absl::StrCat("more than ", kMaxCredit, " bytes of credit"));
  }
  credit_ += bytes;
  unacknowledged_ -= std::min(unacknowledged_, bytes);
  last_progress_ = absl::Now();
  return absl::OkStatus();
}

void BlockStream::Fail(absl::Status status) {
  if (failure_.has_value()) return;
  failure_ = std::move(status);
  reads_.clear();
  ready_.reset();
}

bool BlockStream::OwesData() const {
  return !reads_.empty() || ready_.has_value() || preparing_ || writing_;
}

void BlockStream::Advance() {
  bool write = false, prepare = false;
  std::optional<absl::Status> finish;
  {
    absl::MutexLock lock(&mutex_);
    if (finished_) return;
    if (!writing_ && ready_.has_value()) {
      outgoing_ = *std::move(ready_);
      ready_.reset();
      writing_ = write = true;
    }
    if (!preparing_ && !ready_.has_value() && !reads_.empty() &&
        (credit_ > 0 || reads_.front().bytes == 0)) {
      preparing_ = prepare = true;
    }
    if (failure_.has_value() && !writing_ && !preparing_) {
      finish = *failure_;
    } else if (end_.has_value() && !OwesData()) {
      finish = *end_;
    }
    if (finish.has_value()) {
      finished_ = true;
      last_progress_ = absl::Now();
    }
  }
  // Without the lock: only one thread gets here for each, and the call cannot be done meanwhile.
  if (write) StartWrite(&outgoing_);
  if (prepare) core_->work.Post([self = shared_from_this()] { self->Prepare(); });
  if (finish.has_value()) Finish(ToGrpc(*finish));
}

void BlockStream::Prepare() {
  ChunkHeader header;
  std::shared_ptr<const store::Model> model;
  std::span<const uint8_t> data;
  bool checksums = false;
  {
    absl::MutexLock lock(&mutex_);
    if (!reads_.empty()) {
      PendingRead& read = reads_.front();
      const uint64_t bytes = std::min({uint64_t{chunk_bytes_}, read.bytes, credit_});
      model = model_;
      data = model->shards()[read.shard].file->bytes().subspan(read.offset, bytes);
      header = {.read_id = read.id, .offset = read.offset, .last = bytes == read.bytes};
      checksums = checksums_;
      credit_ -= bytes;
      unacknowledged_ += bytes;
      bytes_sent_ += bytes;
      read.offset += bytes;
      read.bytes -= bytes;
      if (header.last) reads_.pop_front();
    }
  }
  absl::Status intact;
  std::optional<grpc::ByteBuffer> chunk;
  if (model != nullptr) {
    const absl::Time start = absl::Now();
    if (checksums) {
      header.xxh64 = XXH64(data.data(), data.size(), 0);
    } else {
      TouchPages(data);
    }
    // After the bytes have been read: now it is known whether they were the file's.
    intact = core_->store->CheckIntact(*model);
    if (intact.ok()) {
      chunk = EncodeChunk(header, data, model);
      core_->events().OnBlockRead(TransferEvents::Method::kStreamBlocks, data.size(),
                                  absl::Now() - start);
    }
  }
  {
    absl::MutexLock lock(&mutex_);
    preparing_ = false;
    last_progress_ = absl::Now();
    if (!intact.ok()) Fail(intact);
    if (chunk.has_value() && !failure_.has_value()) ready_ = *std::move(chunk);
  }
  Advance();
}

void BlockStream::OnWriteDone(bool ok) {
  {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    last_progress_ = absl::Now();
    outgoing_.Clear();
    if (!ok) Fail(absl::CancelledError("the connection broke"));
  }
  Advance();
}

void BlockStream::OnCancel() {
  {
    absl::MutexLock lock(&mutex_);
    Fail(absl::CancelledError("cancelled"));
  }
  Advance();
}

void BlockStream::OnDone() {
  std::string id;
  {
    absl::MutexLock lock(&mutex_);
    done_ = true;
    model_.reset();
    id = id_;
  }
  core_->sessions.Remove(id);
  const std::shared_ptr<BlockStream> self = std::move(self_);
  pass_ = CallGate::Pass();
}

void BlockStream::Describe(v1::Session& description) {
  absl::MutexLock lock(&mutex_);
  description.set_state(end_.has_value() || failure_.has_value() ? "closing" : "open");
  description.set_peer(peer_);
  description.set_transport("stream");
  description.set_bytes_sent(bytes_sent_);
  description.set_bytes_in_flight(unacknowledged_);
  if (model_ != nullptr) {
    description.set_model(model_->name());
    description.set_generation(model_->generation());
  }
}

void BlockStream::Tick(absl::Time now) {
  std::optional<CallRef> stuck;
  const absl::Status late = absl::DeadlineExceededError(
      absl::StrCat("nothing has moved for ", absl::FormatDuration(core_->options.stream_timeout)));
  {
    absl::MutexLock lock(&mutex_);
    if (done_ || now - last_progress_ < core_->options.stream_timeout) return;
    if (model_ != nullptr && !OwesData()) return;
    Fail(late);
    if (writing_ || finished_) stuck.emplace(context_);
  }
  if (stuck.has_value()) stuck->Cancel(late);
  Advance();
}

void BlockStream::Drain() {
  {
    absl::MutexLock lock(&mutex_);
    end_ = absl::UnavailableError("the daemon is draining");
  }
  Advance();
}

}  // namespace gguf_offload

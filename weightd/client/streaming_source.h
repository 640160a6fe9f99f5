// WeightSource over StreamBlocks.
#ifndef WEIGHTD_CLIENT_STREAMING_SOURCE_H_
#define WEIGHTD_CLIENT_STREAMING_SOURCE_H_

#include <grpcpp/alarm.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "weightd/client/chunk_decoding.h"
#include "weightd/client/lease_keeper.h"
#include "weightd/client/pending_reads.h"
#include "weightd/client/weight_source.h"

namespace gguf_offload {

// One thread polls the network, copies and checks what arrives, and calls back. The stream is
// opened with the first read and kept open; when it breaks it is opened again for what has not
// arrived.
class StreamingSource final : public WeightSource {
 public:
  static absl::StatusOr<std::unique_ptr<WeightSource>> Attach(const Options& options);
  ~StreamingSource() override;

  const v1::Manifest& manifest() const override { return lease_->manifest(); }
  const uint8_t* MappedShard(uint32_t) const override { return nullptr; }
  int ShardDescriptor(uint32_t) const override { return -1; }
  void ReadAsync(std::vector<Range> ranges, absl::Time deadline,
                 std::function<void(absl::Status)> done) override;
  absl::Status CheckIntact() const override { return lease_->CheckIntact(); }
  bool attached() const override { return lease_->attached(); }
  void SetRequestIds(std::vector<std::string> ids) override;
  uint64_t bytes_received() const override { return bytes_received_; }

 private:
  // One StreamBlocks call. Each operation under way is a tag in the queue; the call is deleted when
  // none is left.
  struct Call;

  StreamingSource(const Options& options, std::shared_ptr<grpc::Channel> channel,
                  std::unique_ptr<LeaseKeeper> lease);

  void Run();
  // Until when there is nothing to do unless something happens.
  absl::Time NextWake() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Open() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // An operation of the call has ended.
  void OnStarted(bool ok) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnRead(bool ok);
  void OnWritten(bool ok) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status TakeMessage(const grpc::ByteBuffer& message);
  absl::Status TakeChunk(const DecodedResponse& chunk);
  // Sends credit or the next request, if there is one and the stream takes it.
  void Write() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Send(const v1::StreamBlocksRequest& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Gives the call up for this reason, or for the daemon's.
  void Break(absl::Status why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Once nothing of the call is under way any more, draws the conclusions from how it ended.
  void SettleIfOver() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Settle(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TellFinished();
  void Wake() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Log(std::string_view line) const;

  const Options options_;
  const std::unique_ptr<LeaseKeeper> lease_;
  grpc::GenericStub stub_;
  grpc::CompletionQueue queue_;
  std::atomic<uint64_t> bytes_received_{0};

  absl::Mutex mutex_;
  PendingReads reads_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> request_ids_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Call> call_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<grpc::Alarm> alarm_ ABSL_GUARDED_BY(mutex_);          // set to wake the thread
  absl::Time awake_at_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();  // whatever happens
  uint64_t consumed_ ABSL_GUARDED_BY(mutex_) = 0;  // bytes for which credit is to be granted anew
  absl::Time next_attempt_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::Duration pause_ ABSL_GUARDED_BY(mutex_);
  absl::Status last_failure_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread thread_;
};

}  // namespace gguf_offload

#endif  // WEIGHTD_CLIENT_STREAMING_SOURCE_H_

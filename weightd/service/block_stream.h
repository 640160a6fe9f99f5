// One StreamBlocks call: the bulk path.
#ifndef WEIGHTD_SERVICE_BLOCK_STREAM_H_
#define WEIGHTD_SERVICE_BLOCK_STREAM_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gguf_offload/v1/weights.pb.h"
#include "weightd/service/service_core.h"
#include "weightd/service/session_book.h"

namespace gguf_offload {

inline constexpr uint32_t kDefaultChunkBytes = 512 << 10;
inline constexpr uint32_t kMinChunkBytes = 4 << 10;
inline constexpr uint32_t kMaxChunkBytes = 3 << 20;
inline constexpr size_t kMaxQueuedReads = 1024;
inline constexpr uint64_t kMaxCredit = uint64_t{256} << 20;

// Chunks are prepared (their pages touched, their checksums computed) on the work queue, one ahead
// of the one that gRPC is sending, and refer to the mapping: a stream holds no bytes of its own,
// whatever its peer does.
//
// Owns itself from Start until gRPC is done with the call. Thread safe, as gRPC, the work queue and
// the session book all call it.
class BlockStream final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                          public Session,
                          public std::enable_shared_from_this<BlockStream> {
 public:
  // Serves a call. `pass` is held until its end.
  static BlockStream* Start(ServiceCore* core, grpc::CallbackServerContext* context,
                            CallGate::Pass pass);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  void Describe(v1::Session& description) override;
  void Tick(absl::Time now) override;
  void Drain() override;

 private:
  struct PendingRead {
    uint64_t id = 0;
    uint32_t shard = 0;
    uint64_t offset = 0;  // of the next byte
    uint64_t bytes = 0;   // that are left
  };

  BlockStream(ServiceCore* core, grpc::CallbackServerContext* context, CallGate::Pass pass);

  absl::Status Handle(const v1::StreamBlocksRequest& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status HandleStart(const v1::StreamStart& start) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status HandleRead(const v1::StreamRead& read) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LogRead(const v1::StreamRead& read) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  absl::Status AddCredit(uint64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Ends the stream with `status` as soon as gRPC has let go of the message it is sending.
  void Fail(absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool OwesData() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Does whatever can be done next: prepare a chunk, send one, finish. Takes the lock.
  void Advance();
  // Prepares one chunk. On the work queue.
  void Prepare();

  ServiceCore* const core_;
  grpc::CallbackServerContext* const context_;
  const std::string peer_;
  CallGate::Pass pass_;
  std::string id_;
  std::shared_ptr<BlockStream> self_;
  grpc::ByteBuffer incoming_;  // belongs to gRPC while a read is under way
  grpc::ByteBuffer outgoing_;  // belongs to gRPC while writing_

  absl::Mutex mutex_;
  std::shared_ptr<const store::Model> model_ ABSL_GUARDED_BY(mutex_);
  uint32_t chunk_bytes_ ABSL_GUARDED_BY(mutex_) = kDefaultChunkBytes;
  bool checksums_ ABSL_GUARDED_BY(mutex_) = true;
  std::deque<PendingRead> reads_ ABSL_GUARDED_BY(mutex_);
  uint64_t credit_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t unacknowledged_ ABSL_GUARDED_BY(mutex_) = 0;  // bytes sent, not granted anew since
  uint64_t bytes_sent_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<grpc::ByteBuffer> ready_ ABSL_GUARDED_BY(mutex_);  // to be sent next
  bool preparing_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  // Set when no more reads are taken: the client is done or the daemon drains.
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> failure_ ABSL_GUARDED_BY(mutex_);
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time last_progress_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gguf_offload

#endif  // WEIGHTD_SERVICE_BLOCK_STREAM_H_

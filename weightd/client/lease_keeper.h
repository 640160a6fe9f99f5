// Holds a lease: an open Attach stream, opened again whenever it breaks.
#ifndef WEIGHTD_CLIENT_LEASE_KEEPER_H_
#define WEIGHTD_CLIENT_LEASE_KEEPER_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gguf_offload/v1/model.pb.h"
#include "gguf_offload/v1/weights.grpc.pb.h"
#include "weightd/client/source_counters.h"

namespace gguf_offload {

// The first attachment fetches the manifest; later ones ask for the same generation. Owns one
// thread. Thread safe.
class LeaseKeeper {
 public:
  struct Options {
    std::shared_ptr<grpc::Channel> channel;
    std::string model;
    std::string worker;
    v1::Transport transport = v1::TRANSPORT_UNSPECIFIED;
    // May be null.
    std::function<void(std::string_view)> log;
    // May be null.
    SourceCounters* counters = nullptr;
  };

  // Attaches, trying again until `deadline` while the daemon cannot be reached. Errors: those of
  // WeightSource::Attach.
  static absl::StatusOr<std::unique_ptr<LeaseKeeper>> Attach(Options options, absl::Time deadline);

  // Gives the lease back.
  ~LeaseKeeper();
  LeaseKeeper(const LeaseKeeper&) = delete;
  LeaseKeeper& operator=(const LeaseKeeper&) = delete;

  // Of the first attachment, constant.
  const v1::Manifest& manifest() const { return manifest_; }
  // Shared memory: of the first attachment, for one use soon after it.
  const std::string& ticket() const { return ticket_; }

  // Whether the lease is held right now.
  bool attached() const;
  // DATA_LOSS if the daemon has ever said that the files are damaged.
  absl::Status CheckIntact() const;
  // Remembers what another call to the daemon has said.
  void ReportDataLoss(absl::Status status);

 private:
  explicit LeaseKeeper(Options options);
  void Run();
  // Attaches and holds the stream until it ends; returns why it did.
  absl::Status Hold(grpc::ClientContext& context);
  absl::Status TakeStarted(const v1::AttachStarted& started);
  absl::Status TakeManifest(uint64_t generation, const std::string& serialized);
  void TakeEvent(const v1::AttachEvent& event);
  void SetAttached();
  // Ends the stream in order, so that the daemon can tell a worker that leaves from one that is
  // lost; gives up on a daemon that does not answer.
  void SayGoodbye();
  // Called after an attachment has ended (`was_attached`) or failed. Returns whether to try again.
  bool TryAgain(const absl::Status& why, bool was_attached);
  void Log(std::string_view line) const;

  const Options options_;
  const std::unique_ptr<v1::WeightService::Stub> stub_;
  // Written before the first attachment is announced, constant afterwards.
  v1::Manifest manifest_;
  std::string ticket_;

  mutable absl::Mutex mutex_;
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;  // of the stream under way
  grpc::ClientReaderWriter<v1::AttachRequest, v1::AttachResponse>* stream_ ABSL_GUARDED_BY(mutex_) =
      nullptr;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;  // SayGoodbye uses stream_
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool attached_ ABSL_GUARDED_BY(mutex_) = false;
  bool ever_attached_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status last_failure_ ABSL_GUARDED_BY(mutex_);
  bool gave_up_ ABSL_GUARDED_BY(mutex_) = false;  // the first attachment cannot succeed
  absl::Status data_loss_ ABSL_GUARDED_BY(mutex_);
  std::string logged_failure_ ABSL_GUARDED_BY(mutex_);  // since the last attachment

  std::thread thread_;
};

}  // namespace gguf_offload

#endif  // WEIGHTD_CLIENT_LEASE_KEEPER_H_

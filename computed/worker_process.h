// Everything that a worker consists of but its network face: from the weight source to the session,
// created in the order in which they need each other.
#ifndef COMPUTED_WORKER_PROCESS_H_
#define COMPUTED_WORKER_PROCESS_H_

#include <grpcpp/security/credentials.h>

#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "computed/engine/engine.h"
#include "computed/service/worker.h"

namespace gguf_offload {

struct WorkerOptions {
  std::string weights;  // "unix:PATH" or "HOST:PORT"
  std::string model;
  // TLS of a HOST:PORT, none if null; and what the daemon's certificate names, if not the host.
  std::shared_ptr<grpc::ChannelCredentials> credentials;
  std::string server_name;
  bool cuda = false;         // run on the GPU
  bool cpu_instead = false;  // or on the CPU, if the GPU cannot run such a model
  EngineOptions engine;
  std::string activations;  // as the flag has it
  int max_waiting = 64;
  absl::Duration attach_timeout = absl::Seconds(60);
  // Told what happens. Not owned, must outlive the worker; may be null.
  SessionEvents* events = nullptr;
  SourceCounters* source_counters = nullptr;
  std::map<std::string, std::string> flags;  // for GetConfig
};

class WorkerProcess {
 public:
  // Attaches to the daemon and gets ready to run. `gate` must outlive the result.
  static absl::StatusOr<std::unique_ptr<WorkerProcess>> Create(WorkerOptions options,
                                                               CallGate* gate);

  // What the services answer from; valid for the life of this.
  const Worker& view() const { return view_; }

 private:
  explicit WorkerProcess(WorkerOptions options) : options_(std::move(options)) {}
  WeightSource::Options WeightsOptions() const;
  absl::Status LoadModel();
  absl::StatusOr<std::unique_ptr<Engine>> CreateEngine();
  absl::Status StartSession();

  const WorkerOptions options_;
  Trace trace_;
  // Destroyed from the last to the first.
  std::unique_ptr<WeightSource> source_;
  std::unique_ptr<Architecture> architecture_;
  ModelTensors tensors_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<ForwardPass> forward_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<InferenceSession> session_;
  Worker view_;
};

}  // namespace gguf_offload

#endif  // COMPUTED_WORKER_PROCESS_H_

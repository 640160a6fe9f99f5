// How offloadctl reaches a daemon: channels, errors worth reading, and Ctrl-C.
#ifndef COMPUTED_CLI_CONNECTION_H_
#define COMPUTED_CLI_CONNECTION_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "computed/cli/arguments.h"

namespace gguf_offload::cli {

// The flags that every command has.
std::vector<Flag> ConnectionFlags();

// What these flags say holds for all of this process's channels from now on. INVALID_ARGUMENT if
// the TLS files cannot be used.
absl::Status UseConnectionFlags(const Arguments& arguments);

// A channel to `address`, which is unix:PATH or HOST:PORT. Does not wait for the connection; the
// first call fails with UNAVAILABLE if there is none. INVALID_ARGUMENT for any other address.
absl::StatusOr<std::shared_ptr<grpc::Channel>> Connect(const std::string& address);

// `status`, with a message that names `address` and takes one line.
absl::Status RpcError(const grpc::Status& status, const std::string& address);

// Cancels a call when the user presses Ctrl-C. SIGINT is blocked from construction on, in this
// thread and those it starts, so construct it before the channel. A second Ctrl-C ends the process.
// `context` must outlive this object.
class CancelOnInterrupt {
 public:
  explicit CancelOnInterrupt(grpc::ClientContext* context);
  ~CancelOnInterrupt();
  CancelOnInterrupt(const CancelOnInterrupt&) = delete;
  CancelOnInterrupt& operator=(const CancelOnInterrupt&) = delete;

 private:
  void Watch(grpc::ClientContext* context);

  int signals_ = -1;  // signalfd
  int stop_ = -1;     // eventfd, readable once the destructor runs
  std::thread watcher_;
};

}  // namespace gguf_offload::cli

#endif  // COMPUTED_CLI_CONNECTION_H_

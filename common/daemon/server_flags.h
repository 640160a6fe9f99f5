// The command-line flags of both daemons that concern their network faces and their logs.
#ifndef COMMON_DAEMON_SERVER_FLAGS_H_
#define COMMON_DAEMON_SERVER_FLAGS_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/daemon/host_port.h"
#include "common/daemon/tls.h"
#include "common/log/log.h"

namespace gguf_offload {

struct ServerFlags {
  HostPort listen;
  std::optional<HostPort> metrics;
  std::optional<HostPort> admin;
  std::optional<TlsFiles> tls;
  std::vector<std::string> allowed_names;
  bool allow_plaintext = false;
  int calls_per_client = 0;
  absl::Duration grace;
  LogLevel log_level = LogLevel::kInfo;
  LogFormat log_format = LogFormat::kText;
};

// For the port at `flags.listen`; null if it is to be without TLS. Errors: those of CheckTlsFiles.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerCredentialsFor(
    const ServerFlags& flags);

// What the flags say; `listen` is --listen, whose default each daemon has for itself.
// INVALID_ARGUMENT, naming the flag.
absl::StatusOr<ServerFlags> ParseServerFlags(const std::string& listen);

// Name and value of each of these flags, for GetConfig. Paths of keys are named, keys never.
std::map<std::string, std::string> ServerFlagValues();

}  // namespace gguf_offload

#endif  // COMMON_DAEMON_SERVER_FLAGS_H_

// Mutual TLS for gRPC: both sides show a certificate of one authority. The files are read again
// while the daemon runs, so that certificates are rotated without a restart; connections that exist
// go on, new ones are made with the new files.
#ifndef COMMON_DAEMON_TLS_H_
#define COMMON_DAEMON_TLS_H_

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace gguf_offload {

// PEM files: a certificate (with its chain), its private key, and the authorities that the other
// side's certificate may come from.
struct TlsFiles {
  std::string certificate;
  std::string key;
  std::string authorities;
  // How often the files are looked at for changes.
  int refresh_seconds = 10;
};

// INVALID_ARGUMENT if a file cannot be read, or the key is not the certificate's.
absl::Status CheckTlsFiles(const TlsFiles& files);

// For a server: clients without a certificate of the authorities are refused at the handshake.
// If `allowed_names` is not empty, calls of clients none of whose subject alternative names is
// among them end with PERMISSION_DENIED. Errors: those of CheckTlsFiles.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MutualTlsServerCredentials(
    const TlsFiles& files, std::vector<std::string> allowed_names);

// For a client: the server's certificate must name the host that is connected to (or what the
// channel argument "grpc.ssl_target_name_override" says). Errors: those of CheckTlsFiles.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MutualTlsChannelCredentials(
    const TlsFiles& files);

}  // namespace gguf_offload

#endif  // COMMON_DAEMON_TLS_H_

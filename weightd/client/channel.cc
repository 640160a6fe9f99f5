#include "weightd/client/channel.h"

#include <grpc/grpc.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <mutex>

namespace gguf_offload {

std::shared_ptr<grpc::Channel> OpenChannel(const std::string& address,
                                           std::shared_ptr<grpc::ChannelCredentials> credentials,
                                           const std::string& server_name) {
  // Never given back: when the last channel goes, the library shuts itself down and may wait 10 s
  // for a poller of its own.
  static std::once_flag once;
  std::call_once(once, grpc_init);
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // Larger frames than HTTP/2's 16 KiB: a chunk of 1 MiB then is 16 of them instead of 64.
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 64 << 10);
  // Chunks are at most 3 MiB, pieces of a manifest 1 MiB.
  arguments.SetMaxReceiveMessageSize(4 << 20);
  // The Unix socket has no TLS: the kernel says who is at the other end.
  if (credentials == nullptr || address.starts_with("unix:")) {
    credentials = grpc::InsecureChannelCredentials();
  }
  if (!server_name.empty()) arguments.SetSslTargetNameOverride(server_name);
  return grpc::CreateCustomChannel(address, credentials, arguments);
}

}  // namespace gguf_offload

// Channels to a weight daemon.
#ifndef WEIGHTD_CLIENT_CHANNEL_H_
#define WEIGHTD_CLIENT_CHANNEL_H_

#include <grpcpp/channel.h>
#include <grpcpp/security/credentials.h>

#include <memory>
#include <string>

namespace gguf_offload {

// A channel with a connection of its own to "unix:PATH" or "HOST:PORT" that notices within half a
// minute when the other side is gone and connects again quickly. `credentials` are for HOST:PORT,
// null for no transport security; `server_name` is what the server's certificate has to name, if
// not the host.
std::shared_ptr<grpc::Channel> OpenChannel(
    const std::string& address, std::shared_ptr<grpc::ChannelCredentials> credentials = nullptr,
    const std::string& server_name = "");

}  // namespace gguf_offload

#endif  // WEIGHTD_CLIENT_CHANNEL_H_

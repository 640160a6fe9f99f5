// Channels to a weight daemon.
#ifndef WEIGHTD_CLIENT_CHANNEL_H_
#define WEIGHTD_CLIENT_CHANNEL_H_

#include <grpcpp/channel.h>

#include <memory>
#include <string>

namespace gguf_offload {

// A channel with a connection of its own to "unix:PATH" or "HOST:PORT", without transport security,
// that notices within half a minute when the other side is gone and connects again quickly.
std::shared_ptr<grpc::Channel> OpenChannel(const std::string& address);

}  // namespace gguf_offload

#endif  // WEIGHTD_CLIENT_CHANNEL_H_

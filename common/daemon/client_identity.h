// Who calls: the name that a client's calls are counted and logged under.
#ifndef COMMON_DAEMON_CLIENT_IDENTITY_H_
#define COMMON_DAEMON_CLIENT_IDENTITY_H_

#include <grpcpp/server_context.h>

#include <string>

namespace gguf_offload {

// With mutual TLS the first subject alternative name of the client's certificate (its common name
// if it has none); without, its IP address ("127.0.0.1", "::1"). "" for a client on a Unix socket,
// whose user was checked when it connected.
std::string ClientIdentity(const grpc::ServerContextBase& context);

// The IP address in a peer as gRPC writes it ("ipv4:127.0.0.1:4711", "ipv6:%5B::1%5D:4711"); "" if
// it has none.
std::string AddressOfPeer(const std::string& peer);

}  // namespace gguf_offload

#endif  // COMMON_DAEMON_CLIENT_IDENTITY_H_

#include "common/daemon/client_identity.h"

#include <memory>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"

namespace gguf_offload {

std::string ClientIdentity(const grpc::ServerContextBase& context) {
  const std::shared_ptr<const grpc::AuthContext> auth = context.auth_context();
  if (auth != nullptr && auth->IsPeerAuthenticated()) {
    const std::vector<grpc::string_ref> names = auth->GetPeerIdentity();
    if (!names.empty()) return std::string(names[0].data(), names[0].size());
  }
  return AddressOfPeer(context.peer());
}

std::string AddressOfPeer(const std::string& peer) {
  if (!absl::StartsWith(peer, "ipv4:") && !absl::StartsWith(peer, "ipv6:")) return "";
  // gRPC percent-encodes the brackets around an IPv6 address.
  const std::string address = absl::StrReplaceAll(peer.substr(5, peer.rfind(':') - 5),
                                                  {{"%5B", ""}, {"%5D", ""}, {"[", ""}, {"]", ""}});
  return address;
}

}  // namespace gguf_offload

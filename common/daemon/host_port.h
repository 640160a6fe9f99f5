// "HOST:PORT" as flags give it.
#ifndef COMMON_DAEMON_HOST_PORT_H_
#define COMMON_DAEMON_HOST_PORT_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace gguf_offload {

struct HostPort {
  std::string host;  // without brackets
  uint16_t port = 0;

  // "HOST:PORT", an IPv6 address in brackets.
  std::string ToString() const;
};

// Accepts "NAME:PORT", "1.2.3.4:PORT" and "[::1]:PORT"; the port is 0 to 65535. INVALID_ARGUMENT
// says what is wrong in one line.
absl::StatusOr<HostPort> ParseHostPort(std::string_view text);

// Whether only this machine can reach it: "localhost", 127.0.0.0/8 or ::1.
bool IsLoopback(const HostPort& address);

}  // namespace gguf_offload

#endif  // COMMON_DAEMON_HOST_PORT_H_

#include "common/daemon/server_flags.h"

#include <unistd.h>

#include <utility>

#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

ABSL_FLAG(absl::Duration, grace, absl::Seconds(30),
          "How long running calls may take to finish after SIGTERM.");
ABSL_FLAG(std::string, metrics, "",
          "HOST:PORT to serve Prometheus metrics on, at http://HOST:PORT/metrics; empty for none.");
ABSL_FLAG(std::string, admin, "",
          "HOST:PORT, on the loopback only, of a second gRPC port for operators: channelz, log "
          "level, CPU profiles; empty for none.");
ABSL_FLAG(std::string, tls_cert, "",
          "PEM file of this daemon's certificate; with --tls-key and --tls-ca, both sides of every "
          "connection over TCP show a certificate.");
ABSL_FLAG(std::string, tls_key, "", "PEM file of the certificate's private key.");
ABSL_FLAG(std::string, tls_ca, "", "PEM file of the authorities that peers' certificates are of.");
ABSL_FLAG(absl::Duration, tls_refresh, absl::Seconds(10),
          "How often the three files are looked at for changes, in whole seconds.");
ABSL_FLAG(std::vector<std::string>, tls_allow, {},
          "Subject alternative names of the clients that may call; empty: all whose certificate is "
          "of the authorities.");
ABSL_FLAG(bool, allow_plaintext, false,
          "Allow --listen elsewhere than on the loopback without TLS.");
ABSL_FLAG(int, max_calls_per_client, 0, "Calls that one client may have running; 0: any number.");
ABSL_FLAG(std::string, log_format, "auto",
          "text, json (an object a line), or auto: text on a terminal, otherwise json.");
ABSL_FLAG(std::string, log_level, "info", "debug, info, warning or error.");

namespace gguf_offload {
namespace {

template <typename... Parts>
absl::Status Error(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::StatusOr<std::optional<HostPort>> OptionalHostPort(const char* name,
                                                         const std::string& text) {
  if (text.empty()) return std::optional<HostPort>();
  absl::StatusOr<HostPort> address = ParseHostPort(text);
  if (!address.ok()) return Error("--", name, ": ", address.status().message());
  return std::optional<HostPort>(*std::move(address));
}

absl::StatusOr<std::optional<TlsFiles>> ParseTls() {
  TlsFiles files = {.certificate = absl::GetFlag(FLAGS_tls_cert),
                    .key = absl::GetFlag(FLAGS_tls_key),
                    .authorities = absl::GetFlag(FLAGS_tls_ca)};
  const int given = !files.certificate.empty() + !files.key.empty() + !files.authorities.empty();
  if (given == 0) return std::optional<TlsFiles>();
  if (given < 3) return Error("--tls-cert, --tls-key and --tls-ca go together");
  const absl::Duration refresh = absl::GetFlag(FLAGS_tls_refresh);
  if (refresh < absl::Seconds(1) || refresh > absl::Hours(24) ||
      refresh != absl::Trunc(refresh, absl::Seconds(1))) {
    return Error("--tls-refresh is not 1 s to 24 h in whole seconds");
  }
  files.refresh_seconds = static_cast<int>(absl::ToInt64Seconds(refresh));
  return std::optional<TlsFiles>(std::move(files));
}

absl::StatusOr<LogFormat> ParseLogFormat(const std::string& text) {
  if (text == "text") return LogFormat::kText;
  if (text == "json") return LogFormat::kJson;
  if (text == "auto") return isatty(STDERR_FILENO) == 1 ? LogFormat::kText : LogFormat::kJson;
  return Error("--log-format=", text, " is not text, json or auto");
}

}  // namespace

absl::StatusOr<ServerFlags> ParseServerFlags(const std::string& listen) {
  ServerFlags flags;
  absl::StatusOr<HostPort> address = ParseHostPort(listen);
  if (!address.ok()) return Error("--listen: ", address.status().message());
  flags.listen = *std::move(address);

  absl::StatusOr<std::optional<HostPort>> metrics =
      OptionalHostPort("metrics", absl::GetFlag(FLAGS_metrics));
  if (!metrics.ok()) return metrics.status();
  flags.metrics = *std::move(metrics);
  absl::StatusOr<std::optional<HostPort>> admin =
      OptionalHostPort("admin", absl::GetFlag(FLAGS_admin));
  if (!admin.ok()) return admin.status();
  flags.admin = *std::move(admin);
  if (flags.admin.has_value() && !IsLoopback(*flags.admin)) {
    return Error("--admin=", absl::GetFlag(FLAGS_admin), " is not on the loopback");
  }

  absl::StatusOr<std::optional<TlsFiles>> tls = ParseTls();
  if (!tls.ok()) return tls.status();
  flags.tls = *std::move(tls);
  flags.allowed_names = absl::GetFlag(FLAGS_tls_allow);
  if (!flags.allowed_names.empty() && !flags.tls.has_value()) {
    return Error("--tls-allow needs --tls-cert, --tls-key and --tls-ca");
  }
  flags.allow_plaintext = absl::GetFlag(FLAGS_allow_plaintext);
  if (!flags.tls.has_value() && !flags.allow_plaintext && !IsLoopback(flags.listen)) {
    return Error("--listen=", listen,
                 " is not on the loopback: it needs --tls-cert, --tls-key and --tls-ca, or "
                 "--allow-plaintext");
  }

  flags.calls_per_client = absl::GetFlag(FLAGS_max_calls_per_client);
  if (flags.calls_per_client < 0) return Error("--max-calls-per-client is negative");
  flags.grace = absl::GetFlag(FLAGS_grace);
  if (flags.grace < absl::ZeroDuration()) return Error("--grace is negative");
  absl::StatusOr<LogLevel> level = ParseLogLevel(absl::GetFlag(FLAGS_log_level));
  if (!level.ok()) return Error("--log-level: ", level.status().message());
  flags.log_level = *level;
  absl::StatusOr<LogFormat> format = ParseLogFormat(absl::GetFlag(FLAGS_log_format));
  if (!format.ok()) return format.status();
  flags.log_format = *format;
  return flags;
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerCredentialsFor(
    const ServerFlags& flags) {
  if (flags.tls.has_value()) return MutualTlsServerCredentials(*flags.tls, flags.allowed_names);
  if (!IsLoopback(flags.listen)) {
    Log(LogLevel::kWarning, "everyone who reaches this address may call: it has no TLS",
        {{"listen", flags.listen.ToString()}});
  }
  return std::shared_ptr<grpc::ServerCredentials>();
}

std::map<std::string, std::string> ServerFlagValues() {
  std::map<std::string, std::string> values;
  for (const char* name :
       {"grace", "metrics", "admin", "tls_cert", "tls_key", "tls_ca", "tls_refresh", "tls_allow",
        "allow_plaintext", "max_calls_per_client", "log_format", "log_level"}) {
    values[absl::StrReplaceAll(name, {{"_", "-"}})] =
        absl::FindCommandLineFlag(name)->CurrentValue();
  }
  return values;
}

}  // namespace gguf_offload

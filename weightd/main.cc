// The weight daemon: owns GGUF files and one copy of their pages a host, and serves them to compute
// workers, to those on the same host by sharing pages, to others by streaming.
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/usage.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "common/daemon/daemon.h"
#include "common/daemon/flags.h"
#include "common/daemon/server_flags.h"
#include "common/log/log.h"
#include "weightd/service/weight_daemon.h"

ABSL_FLAG(std::string, model_dir, "", "Folder whose *.gguf files are all served, by file name.");
ABSL_FLAG(std::string, listen, "127.0.0.1:50051", "HOST:PORT to serve gRPC on; port 0 picks one.");
ABSL_FLAG(std::string, socket, "",
          "Path of the Unix socket for workers on this host; empty for none.");
ABSL_FLAG(std::vector<std::string>, allow_uid, {},
          "Users, by number, that may connect to the Unix socket besides the daemon's own.");
ABSL_FLAG(std::string, residency, "lazy",
          "lazy: pages come in when used; warm: populated at start; lock: also locked in memory.");
ABSL_FLAG(std::vector<std::string>, allow_load_from, {},
          "Folders that LoadModel may load from, besides those of --model-dir and --model.");
ABSL_FLAG(absl::Duration, rescan_interval, absl::Seconds(5),
          "How often to look for changed files, which are loaded once they have come to rest; 0 for "
          "never. SIGHUP loads everything anew.");
ABSL_FLAG(absl::Duration, stream_timeout, absl::Seconds(60),
          "A stream that owes data and has not moved for so long is ended.");

namespace gguf_offload {
namespace {

constexpr char kUsage[] =
    "serves the weights of GGUF models.\n\n"
    "  weightd --model=NAME=PATH [--model=NAME=PATH ...] [--model-dir=DIR]\n"
    "          [--listen=HOST:PORT] [--socket=PATH]\n\n"
    "--model names a model and its file (of a split model the first), and may be repeated. Dashes "
    "and underscores in flags' names are the same.";

absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ParseModels(
    const std::vector<std::string>& flags) {
  std::vector<std::pair<std::string, std::string>> models;
  for (const std::string& flag : flags) {
    const size_t equals = flag.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == flag.size()) {
      return absl::InvalidArgumentError(absl::StrCat("--model=", flag, " is not NAME=PATH"));
    }
    models.emplace_back(flag.substr(0, equals), flag.substr(equals + 1));
    for (size_t i = 0; i + 1 < models.size(); ++i) {
      if (models[i].first == models.back().first) {
        return absl::InvalidArgumentError(
            absl::StrCat("--model names \"", models.back().first, "\" twice"));
      }
    }
  }
  return models;
}

absl::StatusOr<store::Residency> ParseResidency(const std::string& flag) {
  if (flag == "lazy") return store::Residency::kLazy;
  if (flag == "warm") return store::Residency::kWarm;
  if (flag == "lock") return store::Residency::kLock;
  return absl::InvalidArgumentError(
      absl::StrCat("--residency=", flag, " is not lazy, warm or lock"));
}

absl::StatusOr<std::vector<uint32_t>> ParseUids(const std::vector<std::string>& flags) {
  std::vector<uint32_t> uids;
  for (const std::string& flag : flags) {
    uint32_t uid = 0;
    if (!absl::SimpleAtoi(flag, &uid)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--allow-uid=", flag, " is not a list of numbers"));
    }
    uids.push_back(uid);
  }
  return uids;
}

absl::StatusOr<WeightDaemon::Options> ParseOptions(std::vector<std::string> words) {
  auto model_flags = TakeRepeatedFlag("model", words);
  if (!model_flags.ok()) return model_flags.status();
  if (absl::Status s = ParseFlags(std::move(words)); !s.ok()) return s;

  WeightDaemon::Options options;
  auto models = ParseModels(*model_flags);
  if (!models.ok()) return models.status();
  options.models = *std::move(models);
  auto server = ParseServerFlags(absl::GetFlag(FLAGS_listen));
  if (!server.ok()) return server.status();
  SetLogFormat(server->log_format);
  SetLogLevel(server->log_level);
  auto credentials = ServerCredentialsFor(*server);
  if (!credentials.ok()) return credentials.status();
  options.credentials = *std::move(credentials);
  options.listen = server->listen;
  options.admin = server->admin;
  options.metrics = server->metrics;
  options.grace = server->grace;
  options.calls_per_client = server->calls_per_client;
  auto residency = ParseResidency(absl::GetFlag(FLAGS_residency));
  if (!residency.ok()) return residency.status();
  options.residency = *residency;
  auto uids = ParseUids(absl::GetFlag(FLAGS_allow_uid));
  if (!uids.ok()) return uids.status();
  options.allowed_uids = *std::move(uids);
  options.socket_path = absl::GetFlag(FLAGS_socket);
  options.model_dir = absl::GetFlag(FLAGS_model_dir);
  options.load_folders = absl::GetFlag(FLAGS_allow_load_from);
  options.stream_timeout = absl::GetFlag(FLAGS_stream_timeout);
  options.rescan_interval = absl::GetFlag(FLAGS_rescan_interval);
  if (options.rescan_interval < absl::ZeroDuration()) {
    return absl::InvalidArgumentError("--rescan-interval is negative");
  }
  if (options.stream_timeout <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("--stream-timeout is not positive");
  }
  options.flags = ServerFlagValues();
  options.flags.insert({
      {"model", absl::StrJoin(*model_flags, ",")},
      {"model-dir", options.model_dir},
      {"listen", absl::GetFlag(FLAGS_listen)},
      {"socket", options.socket_path},
      {"allow-uid", absl::StrJoin(options.allowed_uids, ",")},
      {"residency", absl::GetFlag(FLAGS_residency)},
      {"allow-load-from", absl::StrJoin(options.load_folders, ",")},
      {"rescan-interval", absl::FormatDuration(options.rescan_interval)},
      {"stream-timeout", absl::FormatDuration(options.stream_timeout)},
  });
  return options;
}

int Fail(const absl::Status& status) {
  const std::string message(status.message());
  std::fprintf(stderr, "weightd: %s\n", message.c_str());
  return 1;
}

int Main(int argc, char** argv) {
  BlockTerminationSignals();
  absl::SetProgramUsageMessage(kUsage);
  auto options = ParseOptions(CommandLine(argc, argv));
  if (!options.ok()) return Fail(options.status());
  auto daemon = WeightDaemon::Start(*std::move(options));
  if (!daemon.ok()) return Fail(daemon.status());
  (*daemon)->daemon().Announce();
  return (*daemon)->daemon().ServeUntilSignal();
}

}  // namespace
}  // namespace gguf_offload

int main(int argc, char** argv) { return gguf_offload::Main(argc, argv); }

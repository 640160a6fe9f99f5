#include "common/daemon/admin_server.h"

#include <gperftools/profiler.h>
#include <grpc/grpc.h>
#include <grpcpp/ext/channelz_service_plugin.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/daemon/capture_call.h"
#include "common/log/log.h"

namespace gguf_offload {
namespace {

// The profiler writes a file and there is one of it. In memory, because the file system may be
// read-only.
class Profile {
 public:
  static absl::Status Start() {
    if (running_.exchange(true)) {
      return absl::FailedPreconditionError("another profile is being taken");
    }
    file_ = memfd_create("cpu profile", MFD_CLOEXEC);
    if (file_ < 0 || !ProfilerStart(Path().c_str())) {
      if (file_ >= 0) close(file_);
      running_ = false;
      return absl::InternalError("the profiler does not start");
    }
    return absl::OkStatus();
  }

  static std::string Stop() {
    StopQuietly();
    std::string profile(static_cast<size_t>(lseek(file_, 0, SEEK_END)), '\0');
    size_t done = 0;
    while (done < profile.size()) {
      const ssize_t bytes =
          pread(file_, profile.data() + done, profile.size() - done, static_cast<off_t>(done));
      if (bytes <= 0) break;
      done += static_cast<size_t>(bytes);
    }
    profile.resize(done);
    close(file_);
    running_ = false;
    return profile;
  }

 private:
  // The library prints a line of its own to stderr, which is no log record.
  static void StopQuietly() {
    FILE* const quiet = std::fopen("/dev/null", "w");
    FILE* const usual = stderr;
    if (quiet != nullptr) stderr = quiet;
    ProfilerStop();
    stderr = usual;
    if (quiet != nullptr) std::fclose(quiet);
  }
  static std::string Path() { return absl::StrCat("/proc/self/fd/", file_); }

  inline static std::atomic<bool> running_ = false;
  inline static int file_ = -1;  // of whoever set running_
};

}  // namespace

grpc::ServerUnaryReactor* AdminService::SetLogLevel(grpc::CallbackServerContext* context,
                                                    const v1::SetLogLevelRequest* request,
                                                    v1::SetLogLevelResponse* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const absl::StatusOr<LogLevel> level = ParseLogLevel(request->level());
  if (level.ok()) {
    response->set_previous_level(
        absl::AsciiStrToLower(std::string(LogLevelName(CurrentLogLevel()))));
    gguf_offload::SetLogLevel(*level);
    Log(LogLevel::kWarning, "log level changed", {{"level", LogLevelName(*level)}});
  }
  reactor->Finish(ToGrpc(level.status()));
  return reactor;
}

grpc::ServerWriteReactor<v1::CaptureProfileResponse>* AdminService::CaptureProfile(
    grpc::CallbackServerContext*, const v1::CaptureProfileRequest* request) {
  return new CaptureCall<v1::CaptureProfileResponse>(request->seconds(), Profile::Start,
                                                     Profile::Stop);
}

absl::StatusOr<std::unique_ptr<AdminServer>> AdminServer::Start(HostPort listen) {
  if (!IsLoopback(listen)) {
    return absl::InvalidArgumentError(absl::StrCat(listen.ToString(), " is not on the loopback"));
  }
  static std::once_flag once;
  std::call_once(once, grpc::channelz::experimental::InitChannelzService);
  std::unique_ptr<AdminServer> admin(new AdminServer);
  int port = -1;
  grpc::ServerBuilder builder;
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddListeningPort(listen.ToString(), grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&admin->service_);
  admin->server_ = builder.BuildAndStart();
  if (admin->server_ == nullptr || port <= 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", listen.ToString()));
  }
  admin->address_ = {std::move(listen.host), static_cast<uint16_t>(port)};
  return admin;
}

AdminServer::~AdminServer() {
  if (server_ == nullptr) return;
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
}

}  // namespace gguf_offload

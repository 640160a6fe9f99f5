#include "common/daemon/request_id.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/daemon/client_identity.h"
#include "common/log/log.h"

namespace gguf_offload {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::InterceptorBatchMethods;

// gRPC's names of its codes, by number.
constexpr std::string_view kCodeNames[] = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};

std::string_view CodeName(int code) {
  return code >= 0 && code < static_cast<int>(std::size(kCodeNames)) ? kCodeNames[code] : "UNKNOWN";
}

// One for each call, for as long as the call lives.
class Interceptor : public grpc::experimental::Interceptor {
 public:
  Interceptor(grpc::experimental::ServerRpcInfo* info, std::shared_ptr<LiveCalls> live)
      : info_(info),
        live_(absl::StartsWith(info->method(), "/grpc.") ? nullptr : std::move(live)),
        start_(absl::Now()) {
    if (live_ != nullptr) live_->Add();
  }

  ~Interceptor() override {
    if (live_ != nullptr) live_->Remove();
    if (LogLevel::kDebug < CurrentLogLevel()) return;
    Log(LogLevel::kDebug, "call ended",
        {{"method", info_->method()},
         {"code", CodeName(code_)},
         {"seconds", absl::ToDoubleSeconds(absl::Now() - start_)},
         {"client", client_},
         {"request_id", id_}});
  }

  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA)) {
      TakeId(*methods->GetRecvInitialMetadata());
      client_ = ClientIdentity(*info_->server_context());
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      methods->GetSendInitialMetadata()->emplace(kRequestIdKey, id_);
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      code_ = methods->GetSendStatus().error_code();
    }
    methods->Proceed();
  }

 private:
  // Leaves exactly one entry of the key, whose text belongs to this object.
  void TakeId(std::multimap<grpc::string_ref, grpc::string_ref>& metadata) {
    const auto it = metadata.find(kRequestIdKey);
    if (it != metadata.end()) {
      const std::string_view sent(it->second.data(), it->second.size());
      if (IsRequestId(sent)) id_ = std::string(sent);
    }
    if (id_.empty()) id_ = NewRequestId();
    metadata.erase(kRequestIdKey);
    metadata.emplace(kRequestIdKey, id_);
  }

  grpc::experimental::ServerRpcInfo* const info_;
  const std::shared_ptr<LiveCalls> live_;
  const absl::Time start_;
  std::string id_, client_;
  int code_ = grpc::StatusCode::CANCELLED;  // what a call has ended with that sent no status
};

class Factory : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit Factory(std::shared_ptr<LiveCalls> live) : live_(std::move(live)) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    return new Interceptor(info, live_);
  }

 private:
  const std::shared_ptr<LiveCalls> live_;
};

}  // namespace

bool IsRequestId(std::string_view text) {
  return !text.empty() && text.size() <= 128 &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) ||
                  std::string_view("-_.:/+=").find(static_cast<char>(c)) != std::string_view::npos;
         });
}

std::string NewRequestId() {
  thread_local std::mt19937_64 generator = [] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }();
  return absl::StrFormat("%016x%016x", generator(), generator());
}

std::string RequestIdOf(const grpc::ServerContextBase& context) {
  const auto it = context.client_metadata().find(kRequestIdKey);
  return it == context.client_metadata().end() ? std::string()
                                               : std::string(it->second.data(), it->second.size());
}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> RequestIdInterceptor(
    std::shared_ptr<LiveCalls> live) {
  return std::make_unique<Factory>(std::move(live));
}

}  // namespace gguf_offload

#include "common/metrics/metrics_server.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <exception>
#include <list>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/log/log.h"

namespace gguf_offload {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;
using tcp = boost::asio::ip::tcp;

// After the process has run out of descriptors.
constexpr auto kAcceptAgain = std::chrono::milliseconds(100);

}  // namespace

class MetricsServer::Impl {
 public:
  explicit Impl(Options options)
      : options_(std::move(options)), acceptor_(io_), accept_again_(io_) {}

  ~Impl() {
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }

  absl::Status Start() {
    error_code error;
    Listen(error);
    if (error) {
      return absl::UnavailableError(absl::StrCat(
          "cannot listen for metrics on ", options_.listen.ToString(), ": ", error.message()));
    }
    address_ = {options_.listen.host, acceptor_.local_endpoint(error).port()};
    Accept();
    thread_ = std::thread([this] { io_.run(); });
    return absl::OkStatus();
  }

  const HostPort& address() const { return address_; }

 private:
  // One request and its answer. Owned by the list, and by the operation under way.
  struct Connection {
    Connection(tcp::socket socket, const Options& options)
        : stream(std::move(socket)), buffer(options.max_header_bytes) {
      parser.header_limit(static_cast<uint32_t>(options.max_header_bytes));
    }
    beast::tcp_stream stream;
    beast::flat_buffer buffer;
    http::request_parser<http::empty_body> parser;
    http::response<http::string_body> response;
  };
  using ConnectionPtr = std::shared_ptr<Connection>;

  void Listen(error_code& error) {
    tcp::resolver resolver(io_);
    const auto endpoints =
        resolver.resolve(options_.listen.host, absl::StrCat(options_.listen.port),
                         tcp::resolver::passive | tcp::resolver::numeric_service, error);
    if (error) return;
    const tcp::endpoint endpoint = endpoints.begin()->endpoint();
    acceptor_.open(endpoint.protocol(), error);
    // A daemon that starts again need not wait for the connections of the one before.
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
  }

  void Accept() {
    acceptor_.async_accept([this](error_code error, tcp::socket socket) {
      if (error == asio::error::operation_aborted) return;
      if (error) return AcceptLater();
      Serve(std::move(socket));
      Accept();
    });
  }

  void AcceptLater() {
    accept_again_.expires_after(kAcceptAgain);
    accept_again_.async_wait([this](error_code error) {
      if (!error) Accept();
    });
  }

  void Serve(tcp::socket socket) {
    if (connections_.size() >= options_.max_connections) Close(connections_.front());
    const auto connection = std::make_shared<Connection>(std::move(socket), options_);
    connections_.push_back(connection);
    // One deadline for all that follows.
    connection->stream.expires_after(absl::ToChronoNanoseconds(options_.timeout));
    http::async_read(connection->stream, connection->buffer, connection->parser,
                     [this, connection](error_code error, size_t) { Answer(connection, error); });
  }

  void Answer(const ConnectionPtr& connection, error_code error) {
    // Gone, too slow, too much, or not HTTP: there is nobody to explain it to.
    if (error) return Close(connection);
    const http::request<http::empty_body>& request = connection->parser.get();
    http::response<http::string_body>& response = connection->response;
    response.version(request.version());
    response.keep_alive(false);
    response.set(http::field::content_type, "text/plain; charset=utf-8");
    const std::string_view target(request.target().data(), request.target().size());
    const std::string_view path = target.substr(0, target.find('?'));
    if (request.method() != http::verb::get && request.method() != http::verb::head) {
      response.result(http::status::method_not_allowed);
      response.set(http::field::allow, "GET, HEAD");
    } else if (path == "/metrics") {
      FillMetrics(response);
    } else if (path == "/livez") {
      response.body() = "ok\n";
    } else {
      response.result(http::status::not_found);
      response.body() = "there are /metrics and /livez\n";
    }
    response.prepare_payload();
    if (request.method() == http::verb::head) response.body().clear();
    http::async_write(connection->stream, response, [this, connection](error_code error, size_t) {
      if (!error) connection->stream.socket().shutdown(tcp::socket::shutdown_send, error);
      Close(connection);
    });
  }

  void FillMetrics(http::response<http::string_body>& response) {
    try {
      response.body() = options_.text();
      response.set(http::field::content_type, "text/plain; version=0.0.4; charset=utf-8");
    } catch (const std::exception& e) {
      Log(LogLevel::kError, "metrics cannot be collected", {{"why", e.what()}});
      response.result(http::status::internal_server_error);
    }
  }

  void Close(const ConnectionPtr& in_list) {
    const ConnectionPtr connection = in_list;
    connection->stream.close();
    connections_.remove(connection);
  }

  const Options options_;
  HostPort address_;
  asio::io_context io_{1};
  tcp::acceptor acceptor_;
  asio::steady_timer accept_again_;
  std::list<ConnectionPtr> connections_;  // oldest first
  std::thread thread_;
};

MetricsServer::MetricsServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(Options options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  if (absl::Status status = impl->Start(); !status.ok()) return status;
  return std::unique_ptr<MetricsServer>(new MetricsServer(std::move(impl)));
}

MetricsServer::~MetricsServer() = default;
const HostPort& MetricsServer::address() const { return impl_->address(); }

}  // namespace gguf_offload

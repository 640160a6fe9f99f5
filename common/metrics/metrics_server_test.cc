#include "common/metrics/metrics_server.h"

#include <gtest/gtest.h>

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace gguf_offload {
namespace {

namespace asio = boost::asio;
using tcp = asio::ip::tcp;

class MetricsServerTest : public ::testing::Test {
 protected:
  void Start(MetricsServer::Options options = {}) {
    options.listen = {"127.0.0.1", 0};
    if (!options.text) {
      options.text = [this] { return "calls " + std::to_string(++calls_) + "\n"; };
    }
    auto server = MetricsServer::Start(std::move(options));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    ASSERT_NE(server_->address().port, 0);
  }

  tcp::socket Connect() {
    tcp::socket socket(io_);
    socket.connect({asio::ip::address_v4::loopback(), server_->address().port});
    return socket;
  }

  // Everything until the server closes the connection.
  static std::string ReadAll(tcp::socket& socket) {
    std::string answer;
    boost::system::error_code error;
    asio::read(socket, asio::dynamic_buffer(answer), error);
    return answer;
  }

  std::string Ask(const std::string& request) {
    tcp::socket socket = Connect();
    boost::system::error_code error;
    asio::write(socket, asio::buffer(request), error);
    return ReadAll(socket);
  }

  std::string Get(const std::string& path, const std::string& method = "GET") {
    return Ask(method + " " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n");
  }

  asio::io_context io_;
  std::atomic<int> calls_{0};
  std::unique_ptr<MetricsServer> server_;
};

std::string Body(const std::string& answer) { return answer.substr(answer.find("\r\n\r\n") + 4); }

TEST_F(MetricsServerTest, AnswersMetricsInPrometheusFormat) {
  Start();
  const std::string answer = Get("/metrics");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK\r\n")) << answer;
  EXPECT_NE(answer.find("Content-Type: text/plain; version=0.0.4"), std::string::npos) << answer;
  EXPECT_EQ(Body(answer), "calls 1\n");
  EXPECT_EQ(Body(Get("/metrics?name=value")), "calls 2\n");
}

TEST_F(MetricsServerTest, AnswersLivezWithoutCollecting) {
  Start();
  const std::string answer = Get("/livez");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK\r\n")) << answer;
  EXPECT_EQ(Body(answer), "ok\n");
  EXPECT_EQ(calls_, 0);
}

TEST_F(MetricsServerTest, HeadHasNoBody) {
  Start();
  const std::string answer = Get("/metrics", "HEAD");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK\r\n")) << answer;
  EXPECT_NE(answer.find("Content-Length: 8\r\n"), std::string::npos) << answer;
  EXPECT_EQ(Body(answer), "");
}

TEST_F(MetricsServerTest, RefusesOtherPathsAndMethods) {
  Start();
  EXPECT_TRUE(Get("/").starts_with("HTTP/1.1 404 "));
  EXPECT_TRUE(Get("/metrics/../etc/passwd").starts_with("HTTP/1.1 404 "));
  EXPECT_TRUE(Get("/metrics", "DELETE").starts_with("HTTP/1.1 405 "));
  EXPECT_EQ(calls_, 0);
}

TEST_F(MetricsServerTest, AnErrorWhileCollectingIsAnAnswer) {
  Start({.text = []() -> std::string { throw std::runtime_error("out of numbers"); }});
  EXPECT_TRUE(Get("/metrics").starts_with("HTTP/1.1 500 "));
  EXPECT_TRUE(Get("/livez").starts_with("HTTP/1.1 200 "));
}

TEST_F(MetricsServerTest, WhatIsNotHttpOrTooLongIsDropped) {
  Start({.max_header_bytes = 512});
  EXPECT_EQ(Ask("\x16\x03\x01 not HTTP at all\r\n\r\n"), "");
  EXPECT_EQ(Ask("GET /metrics HTTP/1.1\r\nX: " + std::string(4096, 'x') + "\r\n\r\n"), "");
  EXPECT_EQ(Ask("GET /" + std::string(100000, 'x')), "");
  EXPECT_EQ(Ask("GET /metrics HTTP/1.1\r\nContent-Length: 1000000\r\n\r\nbody"), "");
  EXPECT_EQ(calls_, 0);
  EXPECT_EQ(Body(Get("/metrics")), "calls 1\n");
}

TEST_F(MetricsServerTest, ASlowRequestIsDropped) {
  Start({.timeout = absl::Milliseconds(50)});
  tcp::socket socket = Connect();
  asio::write(socket, asio::buffer(std::string("GET /metrics HT")));
  EXPECT_EQ(ReadAll(socket), "");
}

TEST_F(MetricsServerTest, SilentConnectionsDoNotKeepOthersOut) {
  Start({.max_connections = 4, .timeout = absl::Hours(1)});
  std::vector<tcp::socket> silent;
  for (int i = 0; i < 20; ++i) silent.push_back(Connect());
  EXPECT_EQ(Body(Get("/metrics")), "calls 1\n");
  EXPECT_EQ(ReadAll(silent[0]), "");  // closed in favour of a later one
}

TEST_F(MetricsServerTest, OnlyOneCanListen) {
  Start();
  const auto second =
      MetricsServer::Start({.listen = server_->address(), .text = [] { return std::string(); }});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(second.status().message().find(server_->address().ToString()), std::string::npos);
}

TEST_F(MetricsServerTest, StopsWithConnectionsOpen) {
  Start();
  tcp::socket socket = Connect();
  server_.reset();
  EXPECT_EQ(ReadAll(socket), "");
}

}  // namespace
}  // namespace gguf_offload

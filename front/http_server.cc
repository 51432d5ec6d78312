#include "front/http_server.h"

#include <sys/socket.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <list>
#include <optional>

#include "front/connection.h"
#include "front/http_fetch.h"
#include "support/error.h"
#include "support/stop_signals.h"

namespace flux::front {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr int kBacklog = 1024;
constexpr std::chrono::milliseconds kAcceptPause(100);
// A client whose machine vanished is noticed after 15 + 3 * 5 seconds.
constexpr int kKeepAliveIdle = 15;
constexpr int kKeepAliveInterval = 5;
constexpr int kKeepAliveProbes = 3;

/// So many clients beyond the limit of connections are told why at a time; more find a closed door.
constexpr size_t kRefusedAtOnce = 64;

tcp::endpoint endpoint_of(const std::string& address, int port) {
  error_code error;
  const asio::ip::address ip = asio::ip::make_address(address, error);
  check(!error, ErrorCode::kInvalidArgument,
        "--address {}: is no IP address; use 127.0.0.1, or 0.0.0.0 for all networks", address);
  return {ip, static_cast<unsigned short>(port)};
}

void probe_when_silent(tcp::socket& socket) {
  const int yes = 1;
  ::setsockopt(socket.native_handle(), SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes);
  for (const auto& [option, value] :
       {std::pair(TCP_KEEPIDLE, kKeepAliveIdle), std::pair(TCP_KEEPINTVL, kKeepAliveInterval),
        std::pair(TCP_KEEPCNT, kKeepAliveProbes)}) {
    ::setsockopt(socket.native_handle(), IPPROTO_TCP, option, &value, sizeof value);
  }
}

}  // namespace

class HttpServer::Internals {
 public:
  Internals(const std::string& address, int port, const HttpLimits& limits)
      : limits_(limits), acceptor_(io_), accept_pause_(io_), signals_(io_, SIGINT, SIGTERM) {
    if (!hangup_is_ignored()) signals_.add(SIGHUP);
    const tcp::endpoint endpoint = endpoint_of(address, port);
    error_code error;
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(kBacklog, error);
    check(!error, ErrorCode::kUnavailable,
          "port {} of {} cannot be listened on: {}; choose another with --port", port, address,
          error.message());
  }

  void run(HttpHandler& handler) {
    home_.emplace(ConnectionHome{handler, limits_, counts_});
    accept();
    io_.run();
  }

  void stop() {
    home_->stopping = true;
    error_code ignored;
    acceptor_.close(ignored);
    accept_pause_.cancel(ignored);
    for (const auto& each : connections_) {
      if (const auto connection = each.lock()) connection->stop();
    }
    stop_when_empty();
  }

  // What connections use outlives them: the last ones end with io_.
  const HttpLimits limits_;
  HttpCounts counts_;
  std::optional<ConnectionHome> home_;
  asio::io_context io_;
  tcp::acceptor acceptor_;
  asio::steady_timer accept_pause_;
  asio::signal_set signals_;

 private:
  void accept() {
    acceptor_.async_accept([this](const error_code& error, tcp::socket socket) {
      if (!acceptor_.is_open()) return;
      if (error) {
        // No descriptor is free, for example: later.
        accept_pause_.expires_after(kAcceptPause);
        accept_pause_.async_wait([this](const error_code& cancelled) {
          if (!cancelled) accept();
        });
        return;
      }
      take(std::move(socket));
      accept();
    });
  }

  void take(tcp::socket socket) {
    const bool is_full = counts_.connections >= limits_.connections;
    if (is_full) ++counts_.refused;
    if (counts_.connections >= limits_.connections + kRefusedAtOnce) return;
    probe_when_silent(socket);
    const auto connection = std::make_shared<Connection>(std::move(socket), *home_);
    connections_.remove_if([](const auto& each) { return each.expired(); });
    connections_.push_back(connection);
    if (is_full) {
      connection->refuse(503, "too many connections are open");
    } else {
      connection->start();
    }
  }

  /// The signals' wait keeps the loop alive, so that its end is looked for.
  void stop_when_empty() {
    if (counts_.connections == 0) {
      io_.stop();
      return;
    }
    accept_pause_.expires_after(kAcceptPause);
    accept_pause_.async_wait([this](const error_code&) { stop_when_empty(); });
  }

  std::list<std::weak_ptr<Connection>> connections_;
};

HttpServer::HttpServer(const std::string& address, int port, const HttpLimits& limits)
    : internals_(std::make_unique<Internals>(address, port, limits)) {}

HttpServer::~HttpServer() = default;

int HttpServer::port() const { return internals_->acceptor_.local_endpoint().port(); }

const HttpCounts& HttpServer::counts() const { return internals_->counts_; }

void HttpServer::run(HttpHandler& handler) { internals_->run(handler); }

void HttpServer::stop() { internals_->stop(); }

void HttpServer::abandon() { internals_->io_.stop(); }

void HttpServer::post(std::function<void()> work) { asio::post(internals_->io_, std::move(work)); }

std::shared_ptr<void> HttpServer::after(double seconds, std::function<void()> work) {
  auto timer = std::make_shared<asio::steady_timer>(internals_->io_);
  timer->expires_after(std::chrono::duration_cast<std::chrono::steady_clock::duration>(
      std::chrono::duration<double>(seconds)));
  timer->async_wait([work = std::move(work)](const error_code& cancelled) {
    if (!cancelled) work();
  });
  return timer;
}

void HttpServer::on_signal(std::function<void()> stop) {
  internals_->signals_.async_wait([this, stop = std::move(stop)](const error_code& error, int) {
    if (error) return;
    stop();
    on_signal(stop);
  });
}

void HttpServer::fetch(const std::string& host, int port, const std::string& path,
                       std::function<void(std::optional<std::string>)> done) {
  start_http_fetch(internals_->io_, host, port, path, std::move(done));
}

}  // namespace flux::front

#include "front/http_fetch.h"

#include <fmt/format.h>

#include <array>
#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <memory>

namespace flux::front {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr std::chrono::seconds kPatience(2);
constexpr size_t kMostBytes = size_t{8} << 20;

class Fetch : public std::enable_shared_from_this<Fetch> {
 public:
  Fetch(asio::io_context& io, std::function<void(std::optional<std::string>)> done)
      : socket_(io), resolver_(io), timer_(io), done_(std::move(done)) {}

  void start(const std::string& host, int port, const std::string& path) {
    // Version 1.0: the body ends with the connection, and is not sent in chunks.
    request_ = fmt::format("GET {} HTTP/1.0\r\nHost: {}:{}\r\n\r\n", path, host, port);
    timer_.expires_after(kPatience);
    timer_.async_wait([self = shared_from_this()](const error_code& cancelled) {
      if (!cancelled) self->end(false);
    });
    resolver_.async_resolve(host, std::to_string(port),
                            [self = shared_from_this()](const error_code& error,
                                                        const tcp::resolver::results_type& found) {
                              if (error) return self->end(false);
                              asio::async_connect(
                                  self->socket_, found,
                                  [self](const error_code& failed, const tcp::endpoint&) {
                                    if (failed) return self->end(false);
                                    self->send();
                                  });
                            });
  }

 private:
  void send() {
    asio::async_write(socket_, asio::buffer(request_),
                      [self = shared_from_this()](const error_code& error, size_t) {
                        if (error) return self->end(false);
                        self->read();
                      });
  }

  void read() {
    socket_.async_read_some(asio::buffer(piece_),
                            [self = shared_from_this()](const error_code& error, size_t bytes) {
                              self->text_.append(self->piece_.data(), bytes);
                              if (error || self->text_.size() > kMostBytes)
                                return self->end(error == asio::error::eof);
                              self->read();
                            });
  }

  void end(bool complete) {
    const auto done = std::exchange(done_, nullptr);
    if (!done) return;
    error_code ignored;
    timer_.cancel(ignored);
    resolver_.cancel();
    socket_.close(ignored);
    const size_t body = text_.find("\r\n\r\n");
    const bool good = complete && text_.starts_with("HTTP/1.") && text_.size() > 12 &&
                      text_.substr(9, 3) == "200" && body != text_.npos;
    done(good ? std::optional(text_.substr(body + 4)) : std::nullopt);
  }

  tcp::socket socket_;
  tcp::resolver resolver_;
  asio::steady_timer timer_;
  std::function<void(std::optional<std::string>)> done_;
  std::string request_;
  std::string text_;
  std::array<char, 16384> piece_;
};

}  // namespace

void start_http_fetch(asio::io_context& io, const std::string& host, int port,
                      const std::string& path,
                      std::function<void(std::optional<std::string>)> done) {
  std::make_shared<Fetch>(io, std::move(done))->start(host, port, path);
}

}  // namespace flux::front

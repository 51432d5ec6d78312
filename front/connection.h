#pragma once

#include <array>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <deque>

#include "front/http.h"

namespace flux::front {

/// What the connections of a server have in common.
struct ConnectionHome {
  HttpHandler& handler;
  const HttpLimits& limits;
  HttpCounts& counts;
  /// Bytes of uploads that are held; they may be held longer than the server.
  std::shared_ptr<size_t> uploaded = std::make_shared<size_t>(0);
  bool stopping = false;  // answers are the last of their connections
};

/// A client's connection. Bytes are read all the time, while a request is answered too: that is how
/// a client that leaves is noticed. A client that closes only its own direction counts as gone.
class Connection final : public Exchange, public std::enable_shared_from_this<Connection> {
 public:
  Connection(boost::asio::ip::tcp::socket socket, ConnectionHome& home);
  ~Connection() override;

  void start();
  /// Answers what is no good request, or comes when no connection is free, and closes.
  void refuse(int status, const std::string& message);
  /// Closes it now if it waits for a request, else after the answer.
  void stop();

  void answer(HttpAnswer answer) override;
  void begin_stream(HttpAnswer head) override;
  void send(std::string piece) override;
  void end_stream() override;
  bool is_behind() const override;
  void when_gone(std::function<void()> gone) override;

 private:
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;
  using ErrorCode = boost::system::error_code;

  /// What the connection is at.
  enum class Phase {
    kReading,    // a request arrives, or will
    kAnswering,  // a request waits for its answer, or for the rest of it
    kFinishing,  // the answer is complete, its last bytes are being sent
    kLingering,  // nothing more is sent; what still arrives is dropped
    kClosed,
  };

  void expect_request();
  void read();
  void on_read(const ErrorCode& error, size_t bytes);
  void feed();
  bool take_head();
  /// Refuses a body that is too long, or for which there is no room now.
  std::optional<HttpAnswer> refuse_body();
  std::string too_large() const;
  void take_request();
  void put(std::string text);
  void write();
  void on_written(const ErrorCode& error, size_t bytes);
  void finish_answer();
  void linger();
  void close();
  void put_head(const HttpAnswer& answer, bool is_stream);
  /// Closes the connection in so many seconds; 0: not. It replaces the time before.
  void set_timer(int seconds);
  void wait_for_timer();
  void on_timer();

  boost::asio::ip::tcp::socket socket_;
  ConnectionHome& home_;
  boost::asio::steady_timer timer_;
  std::chrono::steady_clock::time_point deadline_ = {};
  bool timer_waits_ = false;
  Phase phase_ = Phase::kReading;
  std::array<char, 4096> piece_;  // what is being read
  std::string input_;             // what has been read and not yet parsed
  std::optional<Parser> parser_;
  HttpRequest request_;    // the one that is being answered
  size_t body_limit_ = 0;  // bytes
  bool head_taken_ = false;
  bool keeps_alive_ = false;
  bool in_chunks_ = false;  // of the answer: its length is not known before
  bool reading_ = false;
  bool writing_ = false;
  std::deque<std::string> output_;
  size_t sent_ = 0;    // bytes of output_.front()
  size_t unsent_ = 0;  // bytes of output_ that are not sent
  std::function<void()> gone_;
};

}  // namespace flux::front

#include "front/connection.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/status.hpp>
#include <chrono>

namespace flux::front {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;

/// More than that is unsent where a client is slow to take what it is sent.
constexpr size_t kBehindBytes = size_t{64} << 10;
/// What a client may send ahead of the answer to its request before.
constexpr size_t kAheadBytes = size_t{64} << 10;
constexpr int kLingerSeconds = 2;

std::string copy(boost::beast::string_view text) { return {text.data(), text.size()}; }

HttpRequest head_of(const http::request<http::string_body>& message) {
  HttpRequest request;
  request.method = copy(message.method_string());
  const std::string target = copy(message.target());
  request.path = target.substr(0, target.find('?'));
  request.host = copy(message[http::field::host]);
  request.origin = copy(message[http::field::origin]);
  request.authorization = copy(message[http::field::authorization]);
  request.api_key = copy(message["X-API-Key"]);
  request.request_timeout = copy(message["X-Request-Timeout"]);
  request.content_type = copy(message[http::field::content_type]);
  return request;
}

}  // namespace

Connection::Connection(asio::ip::tcp::socket socket, ConnectionHome& home)
    : socket_(std::move(socket)), home_(home), timer_(socket_.get_executor()) {
  ++home_.counts.connections;
}

Connection::~Connection() { --home_.counts.connections; }

void Connection::start() {
  ErrorCode ignored;
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  expect_request();
  read();
}

void Connection::stop() {
  const bool waits = phase_ == Phase::kReading && !head_taken_ && input_.empty();
  if (waits) close();
  keeps_alive_ = false;
}

void Connection::expect_request() {
  phase_ = Phase::kReading;
  parser_.emplace();
  parser_->header_limit(static_cast<std::uint32_t>(home_.limits.head_bytes));
  // Until take_head() knows what it is. The parser compares a length when the head ends.
  body_limit_ = std::max(home_.limits.body_bytes, home_.limits.upload_bytes);
  parser_->body_limit(body_limit_);
  head_taken_ = false;
  request_ = {};
  set_timer(home_.limits.idle_seconds);
}

void Connection::read() {
  if (reading_ || phase_ == Phase::kClosed) return;
  reading_ = true;
  socket_.async_read_some(asio::buffer(piece_),
                          [self = shared_from_this()](const ErrorCode& error, size_t bytes) {
                            self->reading_ = false;
                            self->on_read(error, bytes);
                          });
}

void Connection::on_read(const ErrorCode& error, size_t bytes) {
  if (phase_ == Phase::kClosed) return;
  if (error) return close();
  if (phase_ == Phase::kLingering) {
    read();
    return;
  }
  const bool first = phase_ == Phase::kReading && !head_taken_ && input_.empty();
  if (first) set_timer(home_.limits.read_seconds);
  input_.append(piece_.data(), bytes);
  if (phase_ == Phase::kReading) feed();
  if (input_.size() > kAheadBytes + home_.limits.head_bytes) return close();
  read();
}

void Connection::feed() {
  while (phase_ == Phase::kReading && !input_.empty()) {
    ErrorCode error;
    const size_t used = parser_->put(asio::buffer(input_), error);
    input_.erase(0, used);
    if (error == http::error::need_more) {
      if (used == 0) return;
      continue;
    }
    if (error == http::error::body_limit) {
      return refuse(413, too_large());
    }
    if (error == http::error::header_limit) {
      return refuse(400, fmt::format("the head of the request is larger than {} bytes",
                                     home_.limits.head_bytes));
    }
    if (error) return refuse(400, fmt::format("the request is no HTTP/1.1: {}", error.message()));
    if (parser_->is_header_done() && !head_taken_ && !take_head()) return;
    if (parser_->is_done()) return take_request();
  }
}

std::string Connection::too_large() const {
  return fmt::format("the body is larger than {} bytes", body_limit_);
}

std::optional<HttpAnswer> Connection::refuse_body() {
  const bool is_upload = home_.handler.takes_upload(request_);
  body_limit_ = is_upload ? home_.limits.upload_bytes : home_.limits.body_bytes;
  parser_->body_limit(body_limit_);
  const auto length = parser_->content_length();
  if (length && *length > body_limit_) return home_.handler.bad_request(413, too_large());
  if (!is_upload) return std::nullopt;
  const auto bytes = length ? static_cast<size_t>(*length) : body_limit_;
  if (*home_.uploaded + bytes > home_.limits.all_upload_bytes) {
    return home_.handler.bad_request(503, "too many images are being uploaded: try again later");
  }
  *home_.uploaded += bytes;
  request_.room =
      std::shared_ptr<void>(nullptr, [held = home_.uploaded, bytes](void*) { *held -= bytes; });
  return std::nullopt;
}

bool Connection::take_head() {
  head_taken_ = true;
  const auto& message = parser_->get();
  keeps_alive_ = message.keep_alive() && !home_.stopping;
  in_chunks_ = message.version() >= 11;
  request_ = head_of(message);
  // Of another encoding nothing says where the body ends: it would be read as the next request (RFC
  // 9112, section 6.3).
  const size_t encodings = message.count(http::field::transfer_encoding);
  const auto encoding = message[http::field::transfer_encoding];
  if (encodings > 1 || (encodings == 1 && !boost::beast::iequals(encoding, "chunked"))) {
    refuse(400, "the request has a Transfer-Encoding other than chunked: send the body as it is");
    return false;
  }
  auto refusal = home_.handler.refuse(request_);
  if (!refusal) refusal = refuse_body();
  if (refusal) {
    // Its body is not read: the connection cannot go on.
    if (!parser_->is_done()) keeps_alive_ = false;
    phase_ = Phase::kAnswering;
    answer(std::move(*refusal));
    return false;
  }
  if (boost::beast::iequals(message[http::field::expect], "100-continue")) {
    put("HTTP/1.1 100 Continue\r\n\r\n");
    write();
  }
  return true;
}

void Connection::take_request() {
  request_.body = std::move(parser_->get().body());
  phase_ = Phase::kAnswering;
  set_timer(0);
  HttpRequest request = request_;
  request_.body.clear();
  request_.room = nullptr;
  home_.handler.handle(std::move(request), shared_from_this());
}

void Connection::refuse(int status, const std::string& message) {
  keeps_alive_ = false;
  phase_ = Phase::kAnswering;
  answer(home_.handler.bad_request(status, message));
  read();
}

void Connection::put_head(const HttpAnswer& answer, bool is_stream) {
  ++home_.counts.answers[answer.status];
  const auto status = static_cast<http::status>(answer.status);
  std::string head = fmt::format("HTTP/1.1 {} {}\r\nContent-Type: {}\r\n", answer.status,
                                 copy(http::obsolete_reason(status)), answer.type);
  if (!is_stream) {
    head += fmt::format("Content-Length: {}\r\n", answer.body.size());
  } else if (in_chunks_) {
    head += "Transfer-Encoding: chunked\r\n";
  } else {
    keeps_alive_ = false;  // HTTP/1.0: the end of the connection is that of the stream
  }
  if (home_.stopping) keeps_alive_ = false;
  for (const auto& [name, value] : answer.headers) head += fmt::format("{}: {}\r\n", name, value);
  for (const auto& [name, value] : home_.handler.common_headers(request_)) {
    head += fmt::format("{}: {}\r\n", name, value);
  }
  head += keeps_alive_ ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n";
  put(std::move(head));
}

void Connection::answer(HttpAnswer answer) {
  if (phase_ != Phase::kAnswering) return;
  put_head(answer, false);
  if (request_.method != "HEAD" && !answer.body.empty()) {
    put(std::move(answer.body));
  }
  finish_answer();
}

void Connection::begin_stream(HttpAnswer head) {
  if (phase_ != Phase::kAnswering) return;
  put_head(head, true);
  write();
}

void Connection::send(std::string piece) {
  if (phase_ != Phase::kAnswering || piece.empty()) return;
  if (!in_chunks_) {
    put(std::move(piece));
  } else {
    put(fmt::format("{:x}\r\n", piece.size()));
    put(std::move(piece));
    put("\r\n");
  }
  write();
}

void Connection::end_stream() {
  if (phase_ != Phase::kAnswering) return;
  if (in_chunks_) put("0\r\n\r\n");
  finish_answer();
}

void Connection::when_gone(std::function<void()> gone) {
  if (phase_ == Phase::kClosed) return gone();
  gone_ = std::move(gone);
}

void Connection::finish_answer() {
  phase_ = Phase::kFinishing;
  write();
}

void Connection::put(std::string text) {
  unsent_ += text.size();
  output_.push_back(std::move(text));
}

bool Connection::is_behind() const { return unsent_ > kBehindBytes; }

void Connection::write() {
  if (writing_ || output_.empty() || phase_ == Phase::kClosed) return;
  writing_ = true;
  set_timer(home_.limits.write_seconds);
  std::array<asio::const_buffer, 8> pieces;
  for (size_t i = 0; i < std::min(pieces.size(), output_.size()); ++i) {
    pieces[i] = asio::buffer(output_[i]);
  }
  pieces[0] += sent_;
  socket_.async_write_some(pieces,
                           [self = shared_from_this()](const ErrorCode& error, size_t bytes) {
                             self->writing_ = false;
                             self->on_written(error, bytes);
                           });
}

void Connection::on_written(const ErrorCode& error, size_t bytes) {
  if (phase_ == Phase::kClosed) return;
  if (error) return close();
  unsent_ -= bytes;
  sent_ += bytes;
  while (!output_.empty() && sent_ >= output_.front().size()) {
    sent_ -= output_.front().size();
    output_.pop_front();
  }
  if (!output_.empty()) return write();
  if (phase_ == Phase::kAnswering) return set_timer(0);
  if (phase_ != Phase::kFinishing) return;
  gone_ = nullptr;
  if (!keeps_alive_ || home_.stopping) return linger();
  expect_request();
  feed();
  read();
}

void Connection::linger() {
  // Closed at once, bytes that the client still sends would destroy the answer on its way.
  phase_ = Phase::kLingering;
  ErrorCode ignored;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  set_timer(kLingerSeconds);
  read();
}

void Connection::close() {
  if (phase_ == Phase::kClosed) return;
  phase_ = Phase::kClosed;
  ErrorCode ignored;
  timer_.cancel(ignored);
  socket_.close(ignored);
  output_.clear();
  unsent_ = 0;
  if (const auto gone = std::exchange(gone_, nullptr)) gone();
}

void Connection::set_timer(int seconds) {
  deadline_ = seconds == 0 ? std::chrono::steady_clock::time_point::max()
                           : std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  // A timer that waits is left alone: when it ends, on_timer() finds the later deadline.
  if (seconds > 0 && !(timer_waits_ && timer_.expiry() <= deadline_)) wait_for_timer();
}

void Connection::wait_for_timer() {
  timer_waits_ = true;
  timer_.expires_at(deadline_);
  timer_.async_wait([self = shared_from_this()](const ErrorCode& error) {
    if (error) return;
    self->timer_waits_ = false;
    self->on_timer();
  });
}

void Connection::on_timer() {
  if (phase_ == Phase::kClosed || deadline_ == std::chrono::steady_clock::time_point::max()) return;
  if (std::chrono::steady_clock::now() < deadline_) return wait_for_timer();
  if (writing_) ++home_.counts.slow_readers;
  close();
}

}  // namespace flux::front

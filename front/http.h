#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// HTTP between the connections and what answers their requests. Everything here happens on one
/// thread.
namespace flux::front {

/// A request; of its headers those that the front reads.
struct HttpRequest {
  std::string method;
  std::string path;  // without what follows '?'
  std::string host;
  std::string origin;
  std::string authorization;
  std::string api_key;          // X-API-Key
  std::string request_timeout;  // X-Request-Timeout
  std::string content_type;
  std::string body;
  std::shared_ptr<void> room = {};  // of an upload: whoever keeps the body keeps it, too
};

struct HttpAnswer {
  int status = 200;
  std::string type = "application/json";
  std::string body = {};
  std::vector<std::pair<std::string, std::string>> headers = {};
};

/// A request that waits for its answer: either one answer(), or begin_stream(), any number of
/// send(), and end_stream(). When the client has left, these do nothing.
class Exchange {
 public:
  virtual ~Exchange() = default;

  virtual void answer(HttpAnswer answer) = 0;
  /// Sends the head of an answer whose body follows piece by piece.
  virtual void begin_stream(HttpAnswer head) = 0;
  virtual void send(std::string piece) = 0;
  virtual void end_stream() = 0;
  /// Whether the client has yet to take pieces from before.
  virtual bool is_behind() const = 0;
  /// `gone` is called once when the client leaves before it has the whole answer; at once where it
  /// has left already.
  virtual void when_gone(std::function<void()> gone) = 0;
};

/// What answers requests.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;

  /// Called when the head of a request has come: an answer refuses it before its body is read.
  virtual std::optional<HttpAnswer> refuse(const HttpRequest& head) = 0;
  /// Whether the body may be as long as an upload.
  virtual bool takes_upload(const HttpRequest& head) = 0;
  virtual void handle(HttpRequest request, const std::shared_ptr<Exchange>& exchange) = 0;
  /// The answer to what is no HTTP, or too large.
  virtual HttpAnswer bad_request(int status, const std::string& message) = 0;
  /// Headers that every answer to such a request has.
  virtual std::vector<std::pair<std::string, std::string>> common_headers(
      const HttpRequest& request) = 0;
};

/// What a client may use of the front.
struct HttpLimits {
  size_t connections = 2048;
  size_t head_bytes = size_t{16} << 10;
  size_t body_bytes = size_t{1} << 20;
  size_t upload_bytes = size_t{64} << 20;     // of a body with images
  size_t all_upload_bytes = size_t{1} << 30;  // of all that are held at a time
  int idle_seconds = 75;                      // between requests
  int read_seconds = 30;                      // for a request to arrive, from its first byte
  int write_seconds = 30;                     // for a client to take anything of what it is sent
};

struct HttpCounts {
  size_t connections = 0;           // open now
  uint64_t refused = 0;             // connections beyond the limit
  uint64_t slow_readers = 0;        // connections closed because nothing was taken
  std::map<int, uint64_t> answers;  // by status
};

}  // namespace flux::front

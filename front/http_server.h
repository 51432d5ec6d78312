#pragma once

#include <functional>
#include <memory>
#include <string>

#include "front/http.h"

namespace flux::front {

/// Listens, and gives every client a connection. It runs on the thread that calls run().
class HttpServer {
 public:
  /// Listens at once. Throws kUnavailable when the port is taken or not allowed, kInvalidArgument
  /// for an address that is not this machine's.
  HttpServer(const std::string& address, int port, const HttpLimits& limits);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  int port() const;
  const HttpCounts& counts() const;

  /// Answers clients until stop() and the end of all connections, or abandon().
  void run(HttpHandler& handler);
  /// Listens no more; connections end with the answers that they wait for.
  void stop();
  /// Ends run() with whatever is open.
  void abandon();

  /// Calls `work` on the thread of run(). May be called on any thread.
  void post(std::function<void()> work);
  /// Calls `work` there after some seconds, unless the returned timer is destroyed before.
  std::shared_ptr<void> after(double seconds, std::function<void()> work);
  /// Calls `stop` there for each SIGINT and SIGTERM.
  void on_signal(std::function<void()> stop);
  /// Asks HOST:PORT for `path` by HTTP; `done` gets the body of a 200, else nothing, after two
  /// seconds at most. Bodies are cut at a few MiB.
  void fetch(const std::string& host, int port, const std::string& path,
             std::function<void(std::optional<std::string>)> done);

 private:
  class Internals;
  std::unique_ptr<Internals> internals_;
};

}  // namespace flux::front

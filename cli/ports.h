#pragma once

#include <optional>
#include <string>

/// Sockets of a server's front end, from outside.
namespace flux::cli {

/// Returns the IPv4 address that `address`, an address or a host name, stands for; of several, the
/// first. Throws kInvalidArgument when there is none.
std::string resolve_address(const std::string& address);

/// Checks that a server can listen on `port` of `address`, an IPv4 address. The error names
/// `option` as the one to change. Throws kUnavailable when the port is taken or not allowed,
/// kInvalidArgument when the address is not this machine's.
void check_port_is_free(const std::string& address, int port, const char* option);

/// Returns the address under which this machine reaches a server that listens on `address`.
std::string local_address(const std::string& address);

/// A TCP connection to a port of this machine. Reading and writing wait for a second at most.
class Connection {
 public:
  Connection(const std::string& address, int port);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// Whether the port took the connection.
  bool is_open() const { return open_; }
  /// Whether all of `text` was sent.
  bool send(const std::string& text);
  /// Reads what comes until the other side closes, or `most` bytes have come.
  std::string receive(size_t most);

 private:
  int descriptor_ = -1;
  bool open_ = false;
};

struct HttpAnswer {
  int status = 0;
  std::string body;
};

/// The answer to GET `path`, of which the body is cut at a few MiB; nothing when there is none.
std::optional<HttpAnswer> http_get(const std::string& address, int port, const std::string& path);

}  // namespace flux::cli

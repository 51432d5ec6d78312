#include "cli/ports.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <string_view>

#include "support/error.h"

namespace flux::cli {
namespace {

class Socket {
 public:
  Socket() : descriptor_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    check(descriptor_ >= 0, ErrorCode::kUnavailable, "a socket cannot be made: {}",
          std::strerror(errno));
  }
  ~Socket() { ::close(descriptor_); }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int get() const { return descriptor_; }

 private:
  int descriptor_;
};

using Addresses = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

/// Resolves IPv4 addresses only: the server spells IPv6 addresses differently for HTTP and gRPC.
Addresses resolve(const std::string& address, int port) {
  addrinfo hints{};
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &found);
  check(
      error == 0, ErrorCode::kInvalidArgument,
      "--address {}: no IPv4 address or host name: {}; use 127.0.0.1, or 0.0.0.0 for all networks",
      address, ::gai_strerror(error));
  return {found, &::freeaddrinfo};
}

}  // namespace

std::string resolve_address(const std::string& address) {
  const Addresses addresses = resolve(address, 0);
  char text[INET_ADDRSTRLEN] = {};
  ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(addresses->ai_addr)->sin_addr, text,
              sizeof text);
  return text;
}

void check_port_is_free(const std::string& address, int port, const char* option) {
  const Addresses addresses = resolve(address, port);
  for (const addrinfo* each = addresses.get(); each != nullptr; each = each->ai_next) {
    const Socket socket;
    // SO_REUSEADDR as servers set it: lingering connections of an earlier run do not matter.
    const int yes = 1;
    ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    const bool bound = ::bind(socket.get(), each->ai_addr, each->ai_addrlen) == 0 &&
                       ::listen(socket.get(), 1) == 0;
    if (bound) continue;
    const int error = errno;
    check(error != EADDRNOTAVAIL, ErrorCode::kInvalidArgument,
          "--address {}: is not an address of this machine; use 127.0.0.1, or 0.0.0.0 for all "
          "networks",
          address);
    fail(ErrorCode::kUnavailable, "port {} of {} cannot be listened on: {}; choose another with {}",
         port, address, std::strerror(error), option);
  }
}

std::string local_address(const std::string& address) {
  return address == "0.0.0.0" ? "127.0.0.1" : address;
}

Connection::Connection(const std::string& address, int port)
    : descriptor_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  if (descriptor_ < 0) return;
  const timeval second{1, 0};
  ::setsockopt(descriptor_, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second);
  ::setsockopt(descriptor_, SOL_SOCKET, SO_SNDTIMEO, &second, sizeof second);
  const Addresses addresses = resolve(address, port);
  open_ = ::connect(descriptor_, addresses->ai_addr, addresses->ai_addrlen) == 0;
}

Connection::~Connection() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

bool Connection::send(const std::string& text) {
  return open_ && ::send(descriptor_, text.data(), text.size(), MSG_NOSIGNAL) == std::ssize(text);
}

std::string Connection::receive(size_t most) {
  std::string text;
  char piece[16384];
  while (open_ && text.size() < most) {
    const ssize_t got = ::recv(descriptor_, piece, sizeof piece, 0);
    if (got <= 0) break;
    text.append(piece, static_cast<size_t>(got));
  }
  return text;
}

std::optional<HttpAnswer> http_get(const std::string& address, int port, const std::string& path) {
  constexpr size_t kMostBytes = size_t{4} << 20;
  Connection connection(address, port);
  // Version 1.0: the body ends with the connection, and is not sent in chunks.
  connection.send(fmt::format("GET {} HTTP/1.0\r\nHost: {}:{}\r\nConnection: close\r\n\r\n", path,
                              address, port));
  const std::string text = connection.receive(kMostBytes);
  // "HTTP/1.1 200 OK"
  HttpAnswer answer;
  if (!text.starts_with("HTTP/1.") || text.size() < 12) return std::nullopt;
  const auto parsed = std::from_chars(text.data() + 9, text.data() + 12, answer.status);
  if (parsed.ec != std::errc()) return std::nullopt;
  const size_t head = text.find("\r\n\r\n");
  if (head != text.npos) answer.body = text.substr(head + 4);
  return answer;
}

}  // namespace flux::cli

#include "cli/ports.h"

#include <fcntl.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
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

void set_timeouts(int descriptor) {
  const timeval second{1, 0};
  ::setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second);
  ::setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &second, sizeof second);
}

}  // namespace

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

bool answers_ok(const std::string& address, int port, const std::string& path) {
  const Addresses addresses = resolve(address, port);
  const Socket socket;
  set_timeouts(socket.get());
  if (::connect(socket.get(), addresses->ai_addr, addresses->ai_addrlen) != 0) return false;
  const std::string request = fmt::format(
      "GET {} HTTP/1.1\r\nHost: {}:{}\r\nConnection: close\r\n\r\n", path, address, port);
  if (::send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL) != std::ssize(request)) {
    return false;
  }
  // "HTTP/1.1 200 OK"
  std::string answer;
  char piece[256];
  while (answer.size() < 12) {
    const ssize_t got = ::recv(socket.get(), piece, sizeof piece, 0);
    if (got <= 0) return false;
    answer.append(piece, static_cast<size_t>(got));
  }
  return answer.starts_with("HTTP/1.") && answer.compare(8, 4, " 200") == 0;
}

}  // namespace flux::cli

#pragma once

#include <string>

/// Checks of sockets for a server's front end.
namespace flux::cli {

/// Checks that a server can listen on `port` of `address` (an IPv4 address or a host name).
/// The error names `option` as the one to change. Throws kUnavailable when the port is taken or not
/// allowed, kInvalidArgument when the address is not this machine's.
void check_port_is_free(const std::string& address, int port, const char* option);

/// Returns the address under which this machine reaches a server that listens on `address`.
std::string local_address(const std::string& address);

/// Returns whether GET `path` is answered with status 200 within a second.
bool answers_ok(const std::string& address, int port, const std::string& path);

}  // namespace flux::cli

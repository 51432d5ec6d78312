#pragma once

#include <string>

/// What a server's front end needs to know about sockets.
namespace flux::cli {

/// Checks that a server can listen on `port` of `address` (an IPv4 address or a host name).
/// `option` is the one to change, for the error. Throws kUnavailable when the port is taken or not
/// allowed, kInvalidArgument when the address is not this machine's.
void check_port_is_free(const std::string& address, int port, const char* option);

/// The address under which a server that listens on `address` is reached from here.
std::string local_address(const std::string& address);

/// Whether GET `path` is answered with status 200 within a second. No answer is a no.
bool answers_ok(const std::string& address, int port, const std::string& path);

}  // namespace flux::cli

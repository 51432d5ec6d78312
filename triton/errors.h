#pragma once

#include <exception>
#include <string>
#include <utility>

#include "support/error.h"
#include "triton/c_api.h"

namespace flux::triton {

/// Makes a server error from an exception. The caller, or the server that it is returned to,
/// deletes it.
ServerError* to_server_error(const std::exception& exception);

/// Throws flux::Error with the code and text of `error`, and deletes it; does nothing for null.
void check_ok(ServerError* error, SourceLocation where = SourceLocation::current());

/// Logs an error that nothing can be done about, and deletes it; does nothing for null.
void log_and_drop(ServerError* error, const char* doing);

/// The line for the log: what() of an exception, and where an internal error was thrown.
std::string report_of(const std::exception& exception);

/// Runs `work` at the C boundary: no exception leaves it.
template <typename Work>
ServerError* guard(Work&& work) noexcept {
  try {
    std::forward<Work>(work)();
    return nullptr;
  } catch (const std::exception& e) {
    return to_server_error(e);
  } catch (...) {
    return to_server_error(Error(ErrorCode::kInternal, "an exception of an unknown type"));
  }
}

}  // namespace flux::triton

#pragma once

#include <exception>
#include <utility>

#include "support/error.h"
#include "triton/c_api.h"

namespace flux::triton {

/// A new server error for an exception; the server or the caller deletes it.
ServerError* to_server_error(const std::exception& exception);

/// Throws flux::Error with the code and text of `error`, which is deleted; nothing for null.
void check_ok(ServerError* error);

/// Deletes an error that nothing can be done about, with a line in the log.
void log_and_drop(ServerError* error, const char* doing);

/// Runs `work` at the C boundary: no exception leaves it.
template <typename Work>
ServerError* guard(Work&& work) noexcept {
  try {
    std::forward<Work>(work)();
    return nullptr;
  } catch (const std::exception& e) {
    return to_server_error(e);
  }
}

}  // namespace flux::triton

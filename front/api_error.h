#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace flux::front {

/// A failure as a client of OpenAI's API reads it. `what()` is one line that names the thing, the
/// value found, what is allowed and what to do.
class ApiError : public std::runtime_error {
 public:
  /// `param`: the field of the body that is wrong; `code`: a word for programs. Both may be empty.
  ApiError(int http_status, const std::string& message, std::string_view wrong_field = {},
           std::string_view word = {})
      : std::runtime_error(message), status(http_status), param(wrong_field), code(word) {}

  int status;         // of HTTP: 400, 401, 403, 404, 405, 413, 429, 500, 503
  std::string param;  // of the body
  std::string code;
};

/// {"error": {"message", "type", "param", "code"}}; the type follows from the status.
std::string error_json(const ApiError& error);

}  // namespace flux::front

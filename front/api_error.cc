#include "front/api_error.h"

#include <nlohmann/json.hpp>

#include "support/utf8.h"

namespace flux::front {
namespace {

/// OpenAI's words for kinds of errors.
const char* type_of(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 429:
      return "rate_limit_error";
    default:
      return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

nlohmann::json text_or_null(const std::string& text) {
  return text.empty() ? nlohmann::json() : nlohmann::json(text);
}

}  // namespace

std::string error_json(const ApiError& error) {
  const nlohmann::ordered_json body = {{"message", readable_message(error.what())},
                                       {"type", type_of(error.status)},
                                       {"param", text_or_null(error.param)},
                                       {"code", text_or_null(error.code)}};
  return nlohmann::ordered_json{{"error", body}}.dump();
}

}  // namespace flux::front

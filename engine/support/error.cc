#include "support/error.h"

namespace flux {

const char* to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return "invalid argument";
    case ErrorCode::kNotFound:
      return "not found";
    case ErrorCode::kUnavailable:
      return "unavailable";
    case ErrorCode::kCancelled:
      return "cancelled";
    case ErrorCode::kUnsupported:
      return "unsupported";
    case ErrorCode::kInternal:
      return "internal error";
  }
  return "unknown";
}

std::string Error::report() const {
  if (code_ != ErrorCode::kInternal) return what();
  return fmt::format("{} ({} at {}:{}; please report it)", what(), to_string(code_), where_.file,
                     where_.line);
}

}  // namespace flux

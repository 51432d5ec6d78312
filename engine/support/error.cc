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

std::string report_of(const Error& error) {
  // One without a place (pipeline/stage_results.h) is no bug of this program.
  const bool bug = error.code() == ErrorCode::kInternal && error.where().line > 0;
  if (!bug) return error.what();
  return fmt::format("{} ({} at {}:{}; please report it)", error.what(), to_string(error.code()),
                     error.where().file, error.where().line);
}

}  // namespace flux

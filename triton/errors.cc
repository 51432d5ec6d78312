#include "triton/errors.h"

#include <new>
#include <string>

#include "support/log.h"
#include "support/utf8.h"

namespace flux::triton {
namespace {

ServerErrorCode to_server_code(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return ServerErrorCode::kInvalidArg;
    case ErrorCode::kNotFound:
      return ServerErrorCode::kNotFound;
    case ErrorCode::kUnavailable:
      return ServerErrorCode::kUnavailable;
    case ErrorCode::kCancelled:
      return ServerErrorCode::kCancelled;
    case ErrorCode::kUnsupported:
      return ServerErrorCode::kUnsupported;
    case ErrorCode::kInternal:
      return ServerErrorCode::kInternal;
  }
  return ServerErrorCode::kUnknown;
}

ErrorCode from_server_code(ServerErrorCode code) {
  switch (code) {
    case ServerErrorCode::kInvalidArg:
    case ServerErrorCode::kAlreadyExists:
      return ErrorCode::kInvalidArgument;
    case ServerErrorCode::kNotFound:
      return ErrorCode::kNotFound;
    case ServerErrorCode::kUnavailable:
      return ErrorCode::kUnavailable;
    case ServerErrorCode::kCancelled:
      return ErrorCode::kCancelled;
    case ServerErrorCode::kUnsupported:
      return ErrorCode::kUnsupported;
    case ServerErrorCode::kUnknown:
    case ServerErrorCode::kInternal:
      return ErrorCode::kInternal;
  }
  return ErrorCode::kInternal;
}

/// gRPC sends an error only if it is UTF-8 and fits into a header.
ServerError* new_error(ServerErrorCode code, const char* message) {
  return api().TRITONSERVER_ErrorNew(code, readable_message(message).c_str());
}

}  // namespace

ServerError* to_server_error(const std::exception& exception) {
  if (const auto* error = dynamic_cast<const Error*>(&exception)) {
    return new_error(to_server_code(error->code()), error->what());
  }
  if (dynamic_cast<const std::bad_alloc*>(&exception) != nullptr) {
    return api().TRITONSERVER_ErrorNew(ServerErrorCode::kUnavailable, "out of memory");
  }
  return new_error(ServerErrorCode::kInternal, exception.what());
}

void check_ok(ServerError* error, SourceLocation where) {
  if (error == nullptr) return;
  const ErrorCode code = from_server_code(api().TRITONSERVER_ErrorCode(error));
  std::string message = api().TRITONSERVER_ErrorMessage(error);
  api().TRITONSERVER_ErrorDelete(error);
  throw Error(code, std::move(message), where);
}

std::string report_of(const std::exception& exception) {
  const auto* error = dynamic_cast<const Error*>(&exception);
  return readable_message(error == nullptr ? exception.what() : report_of(*error));
}

void log_and_drop(ServerError* error, const char* doing) {
  if (error == nullptr) return;
  log_warning("{}: {}", doing, api().TRITONSERVER_ErrorMessage(error));
  api().TRITONSERVER_ErrorDelete(error);
}

}  // namespace flux::triton

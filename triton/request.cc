#include "triton/request.h"

#include <algorithm>
#include <utility>

#include "support/error.h"
#include "support/json_file.h"
#include "support/utf8.h"
#include "triton/errors.h"

namespace flux::triton {

Request::Request(BackendRequest* request) : request_(request), response_(request) {
  uint64_t timeout_us = 0;
  if (ServerError* error =
          api().TRITONBACKEND_InferenceRequestTimeoutMicroseconds(request, &timeout_us)) {
    log_and_drop(error, "reading a request's timeout");
  } else if (timeout_us > 0) {
    deadline_ = start_ + std::chrono::microseconds(timeout_us);
  }
}

void Request::read_timeout_parameter() {
  const std::optional<nlohmann::json> given = parameter("timeout");
  if (deadline_ || !given) return;
  // More than a year would not fit the clock.
  constexpr int64_t kLongest = 365LL * 24 * 3600 * 1000 * 1000;
  check(given->is_number_integer() && *given >= 1 && *given <= kLongest,
        ErrorCode::kInvalidArgument,
        "parameter timeout is {}: must be a whole number of microseconds from 1 to {}",
        quoted(*given), kLongest);
  deadline_ = start_ + std::chrono::microseconds(given->get<int64_t>());
}

Request::~Request() {
  if (request_ == nullptr) return;
  send_error(nullptr, Error(ErrorCode::kInternal, "the request was dropped"), now_ns());
}

void Request::read(Context& ctx) {
  response_.use(ctx);
  read_timeout_parameter();
  inputs_.read(request_, ctx);
}

std::vector<Request::Parameter> Request::parameters() const {
  uint32_t count = 0;
  check_ok(api().TRITONBACKEND_RequestParameterCount(request_, &count));
  std::vector<Parameter> all(count);
  for (uint32_t i = 0; i < count; ++i) {
    Parameter& one = all[i];
    check_ok(api().TRITONBACKEND_RequestParameter(request_, i, &one.name, &one.type, &one.value));
  }
  return all;
}

std::optional<nlohmann::json> Request::parameter(std::string_view name) const {
  for (const auto& [key, type, value] : parameters()) {
    if (name != key) continue;
    switch (type) {
      case ParameterType::kString:
        return nlohmann::json(static_cast<const char*>(value));
      case ParameterType::kInt:
        return nlohmann::json(*static_cast<const int64_t*>(value));
      case ParameterType::kBool:
        return nlohmann::json(*static_cast<const bool*>(value));
      case ParameterType::kDouble:
        return nlohmann::json(*static_cast<const double*>(value));
      case ParameterType::kBytes:
        break;
    }
    fail(ErrorCode::kInvalidArgument, "parameter {} is BYTES: send a string or a number", name);
  }
  return std::nullopt;
}

std::vector<std::string> Request::parameter_names() const {
  std::vector<std::string> names;
  for (const Parameter& parameter : parameters()) names.emplace_back(parameter.name);
  return names;
}

std::string Request::id() const {
  const char* text = nullptr;
  ServerError* error = api().TRITONBACKEND_RequestId(request_, &text);
  log_and_drop(error, "reading a request's id");
  return text == nullptr ? "" : text;
}

std::string Request::log_prefix() const {
  const std::string text = id();
  return text.empty() ? "" : fmt::format("request '{}': ", excerpt(text));
}

Trace* Request::spawn_trace() const {
  Trace* own = nullptr;
  Trace* child = nullptr;
  // A server that was built without tracing says so each time.
  ServerError* error = api().TRITONBACKEND_RequestTrace(request_, &own);
  if (error == nullptr && own != nullptr) {
    error = api().TRITONSERVER_InferenceTraceSpawnChildTrace(own, &child);
  }
  if (error != nullptr) api().TRITONSERVER_ErrorDelete(error);
  return child;
}

bool Request::wants_output(std::string_view name) const {
  uint32_t count = 0;
  check_ok(api().TRITONBACKEND_RequestOutputCount(request_, &count));
  for (uint32_t i = 0; i < count; ++i) {
    const char* wanted = nullptr;
    check_ok(api().TRITONBACKEND_RequestOutputName(request_, i, &wanted));
    if (name == wanted) return true;
  }
  return false;
}

bool Request::deadline_passed() const { return deadline_ && Clock::now() >= *deadline_; }

bool Request::stopped() const {
  bool cancelled = false;
  log_and_drop(api().TRITONBACKEND_RequestIsCancelled(request_, &cancelled),
               "asking whether a request is cancelled");
  return cancelled || deadline_passed();
}

int Request::priority() const {
  uint64_t priority = 0;
  check_ok(api().TRITONSERVER_InferenceRequestPriorityUInt64(request_, &priority));
  // As `timeout`: from /generate it arrives as any other parameter.
  if (const std::optional<nlohmann::json> given = parameter("priority")) {
    check(given->is_number_integer() && *given >= 1 && *given <= kPriorities,
          ErrorCode::kInvalidArgument,
          "parameter priority is {}: must be a whole number from 1, which goes first, to {}",
          quoted(*given), kPriorities);
    return given->get<int>();
  }
  // 0: config.pbtxt has no priority_levels.
  return priority == 0 ? kDefaultPriority : static_cast<int>(std::min<uint64_t>(priority, 1000));
}

std::optional<uint64_t> Request::remaining_us() const {
  if (!deadline_) return std::nullopt;
  const auto left =
      std::chrono::duration_cast<std::chrono::microseconds>(*deadline_ - Clock::now()).count();
  return left > 1 ? static_cast<uint64_t>(left) : 1;
}

void Request::release(Instance* instance, bool success, uint64_t start_ns,
                      uint64_t compute_start_ns, uint64_t compute_end_ns) {
  if (instance != nullptr) {
    log_and_drop(
        api().TRITONBACKEND_ModelInstanceReportStatistics(
            instance, request_, success, start_ns, compute_start_ns, compute_end_ns, now_ns()),
        "reporting statistics");
  }
  log_and_drop(api().TRITONBACKEND_RequestRelease(request_, kReleaseAll), "releasing a request");
  request_ = nullptr;
}

Response Request::part(Context& ctx) const { return Response(request_, ctx); }

void Request::send(Instance* instance, uint64_t start_ns, uint64_t compute_start_ns,
                   uint64_t compute_end_ns) noexcept {
  if (!response_.send()) return;  // the destructor answers with an error
  release(instance, true, start_ns, compute_start_ns, compute_end_ns);
}

void Request::send_error(Instance* instance, const std::exception& error,
                         uint64_t start_ns) noexcept {
  response_.send_error(error);
  const uint64_t now = now_ns();
  release(instance, false, start_ns, now, now);
}

}  // namespace flux::triton

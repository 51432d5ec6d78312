#include "triton/request.h"

#include <cstring>
#include <utility>

#include "ops/kernels.h"
#include "tensor/format.h"
#include "triton/errors.h"
#include "triton/memory.h"

namespace flux::triton {
namespace {

std::vector<int64_t> sizes_of(const Shape& shape) {
  std::vector<int64_t> sizes;
  for (int i = 0; i < shape.rank(); ++i) sizes.push_back(shape[i]);
  return sizes;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

}  // namespace

uint64_t now_ns() {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch())
          .count());
}

DataType wire_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return DataType::kFp32;
    case DType::kBF16:
      return DataType::kBf16;
    case DType::kF16:
      return DataType::kFp16;
    case DType::kI64:
      return DataType::kInt64;
    case DType::kI32:
      return DataType::kInt32;
    case DType::kU8:
      return DataType::kUint8;
    default:
      fail(ErrorCode::kInternal, "dtype {} is never sent", dtype);
  }
}

Request::Request(BackendRequest* request) : request_(request) {
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
        given->dump(), kLongest);
  deadline_ = start_ + std::chrono::microseconds(given->get<int64_t>());
}

Request::~Request() {
  if (request_ == nullptr) return;
  send_error(nullptr, Error(ErrorCode::kInternal, "the request was dropped"), now_ns());
}

void Request::read(Context& ctx) {
  ctx_ = &ctx;
  read_timeout_parameter();
  uint32_t count = 0;
  check_ok(api().TRITONBACKEND_RequestInputCount(request_, &count));
  bool first = true;
  for (uint32_t i = 0; i < count; ++i) {
    InputInfo found;
    const char* name = nullptr;
    const int64_t* shape = nullptr;
    uint32_t rank = 0;
    check_ok(api().TRITONBACKEND_RequestInputByIndex(request_, i, &found.input));
    check_ok(api().TRITONBACKEND_InputProperties(found.input, &name, &found.type, &shape, &rank,
                                                 &found.bytes, &found.buffers));
    found.shape.assign(shape, shape + rank);
    const int64_t rows = found.shape.empty() ? 0 : found.shape[0];
    check(rows > 0, ErrorCode::kInvalidArgument, "{} has shape {}: it holds no row", name,
          shape_text(found.shape));
    check(first || rows == rows_, ErrorCode::kInvalidArgument,
          "{} has {} rows: another input has {}; all need one batch size", name, rows, rows_);
    rows_ = rows;
    first = false;
    inputs_.emplace(name, std::move(found));
  }
}

bool Request::has_input(std::string_view name) const { return inputs_.contains(name); }

const Request::InputInfo& Request::info(std::string_view name) const {
  const auto found = inputs_.find(name);
  check(found != inputs_.end(), ErrorCode::kInvalidArgument, "{} is missing: it is required", name);
  return found->second;
}

Tensor Request::piece(const InputInfo& input, uint32_t index) const {
  const void* data = nullptr;
  uint64_t bytes = 0;
  Place place;
  check_ok(
      api().TRITONBACKEND_InputBuffer(input.input, index, &data, &bytes, &place.type, &place.id));
  // Inputs are only read; Tensor has no read-only form.
  return Tensor(const_cast<void*>(data), DType::kU8, {static_cast<int64_t>(bytes)},
                device_of(place));
}

std::span<const std::byte> Request::bytes_of(const InputInfo& input, Tensor& owner) const {
  if (input.buffers == 1) owner = piece(input, 0);
  if (!owner.defined() || !owner.device().is_cpu()) {
    owner = Tensor::allocate({static_cast<int64_t>(input.bytes)}, DType::kU8);
    int64_t end = 0;
    for (uint32_t i = 0; i < input.buffers; ++i) {
      const Tensor part = piece(input, i);
      if (part.bytes() == 0) continue;
      copy_anywhere(*ctx_, part, owner.slice(0, end, end + part.bytes()));
      end += part.bytes();
    }
  }
  return {owner.data<std::byte>(), static_cast<size_t>(owner.bytes())};
}

Tensor Request::tensor(std::string_view name, DType dtype, std::span<const int64_t> sizes) const {
  const InputInfo& input = info(name);
  check(input.type == wire_type(dtype), ErrorCode::kInvalidArgument, "{} is {}: must be {}", name,
        api().TRITONSERVER_DataTypeString(input.type),
        api().TRITONSERVER_DataTypeString(wire_type(dtype)));
  bool fits = input.shape.size() == sizes.size() + 1 &&
              input.shape.size() <= static_cast<size_t>(Shape::kMaxRank);
  for (size_t i = 0; fits && i < sizes.size(); ++i) {
    const int64_t found = input.shape[i + 1];
    fits = sizes[i] < 0 ? found > 0 : found == sizes[i];
  }
  check(fits, ErrorCode::kInvalidArgument, "{} has shape {}: must be [rows, {}]", name,
        shape_text(input.shape), fmt::join(sizes, ", "));
  const Shape shape(input.shape.data(), static_cast<int>(input.shape.size()));
  const auto expected = static_cast<uint64_t>(shape.numel()) * size_of(dtype);
  check(input.bytes == expected, ErrorCode::kInvalidArgument,
        "{} has {} bytes: its shape {} takes {}", name, input.bytes, shape_text(input.shape),
        expected);
  if (input.buffers == 1) {
    const Tensor bytes = piece(input, 0);
    const Tensor whole(bytes.raw(), dtype, shape, bytes.device());
    if (is_usable(*ctx_, whole)) return whole;
  }
  copied_bytes_ += static_cast<int64_t>(expected);
  Tensor owner;
  const std::span<const std::byte> bytes = bytes_of(input, owner);
  const Tensor own = Tensor::allocate(shape, dtype);
  std::memcpy(own.raw(), bytes.data(), bytes.size());
  return own;
}

void Request::expect_scalar_rows(std::string_view name, const InputInfo& input) const {
  check(input.shape.size() == 2 && input.shape[1] == 1, ErrorCode::kInvalidArgument,
        "{} has shape {}: must be [rows, 1]", name, shape_text(input.shape));
}

std::vector<std::string> Request::strings(std::string_view name) const {
  const InputInfo& input = info(name);
  check(input.type == DataType::kBytes, ErrorCode::kInvalidArgument, "{} is {}: must be BYTES",
        name, api().TRITONSERVER_DataTypeString(input.type));
  expect_scalar_rows(name, input);
  Tensor owner;
  std::span<const std::byte> rest = bytes_of(input, owner);
  std::vector<std::string> texts;
  for (int64_t row = 0; row < rows_; ++row) {
    uint32_t length = 0;  // each text follows its length
    check(rest.size() >= sizeof(length), ErrorCode::kInvalidArgument,
          "{} ends within the length of row {}", name, row);
    std::memcpy(&length, rest.data(), sizeof(length));
    rest = rest.subspan(sizeof(length));
    check(length <= rest.size(), ErrorCode::kInvalidArgument,
          "{} row {} says it has {} bytes: {} follow", name, row, length, rest.size());
    texts.emplace_back(reinterpret_cast<const char*>(rest.data()), length);
    rest = rest.subspan(length);
  }
  check(rest.empty(), ErrorCode::kInvalidArgument, "{} has {} bytes too many", name, rest.size());
  return texts;
}

std::vector<int64_t> Request::integers(std::string_view name) const {
  const InputInfo& input = info(name);
  const bool wide = input.type == DataType::kInt64;
  check(wide || input.type == DataType::kInt32, ErrorCode::kInvalidArgument,
        "{} is {}: must be INT32 or INT64", name, api().TRITONSERVER_DataTypeString(input.type));
  expect_scalar_rows(name, input);
  Tensor owner;
  const std::span<const std::byte> bytes = bytes_of(input, owner);
  const size_t size = wide ? sizeof(int64_t) : sizeof(int32_t);
  check(bytes.size() == static_cast<size_t>(rows_) * size, ErrorCode::kInvalidArgument,
        "{} has {} bytes: {} rows take {}", name, bytes.size(), rows_,
        static_cast<size_t>(rows_) * size);
  std::vector<int64_t> values;
  for (size_t row = 0; row < static_cast<size_t>(rows_); ++row) {
    int64_t value64 = 0;
    int32_t value32 = 0;
    std::memcpy(wide ? static_cast<void*>(&value64) : &value32, bytes.data() + row * size, size);
    values.push_back(wide ? value64 : value32);
  }
  return values;
}

std::vector<double> Request::numbers(std::string_view name) const {
  const InputInfo& input = info(name);
  check(input.type == DataType::kFp32, ErrorCode::kInvalidArgument, "{} is {}: must be FP32", name,
        api().TRITONSERVER_DataTypeString(input.type));
  expect_scalar_rows(name, input);
  Tensor owner;
  const std::span<const std::byte> bytes = bytes_of(input, owner);
  check(bytes.size() == static_cast<size_t>(rows_) * sizeof(float), ErrorCode::kInvalidArgument,
        "{} has {} bytes: {} rows take {}", name, bytes.size(), rows_,
        static_cast<size_t>(rows_) * sizeof(float));
  std::vector<double> values;
  for (size_t row = 0; row < static_cast<size_t>(rows_); ++row) {
    float value = 0;
    std::memcpy(&value, bytes.data() + row * sizeof(float), sizeof(float));
    values.push_back(value);
  }
  return values;
}

std::optional<nlohmann::json> Request::parameter(std::string_view name) const {
  uint32_t count = 0;
  check_ok(api().TRITONBACKEND_RequestParameterCount(request_, &count));
  for (uint32_t i = 0; i < count; ++i) {
    const char* key = nullptr;
    ParameterType type = ParameterType::kString;
    const void* value = nullptr;
    check_ok(api().TRITONBACKEND_RequestParameter(request_, i, &key, &type, &value));
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

std::string Request::id() const {
  const char* text = nullptr;
  ServerError* error = api().TRITONBACKEND_RequestId(request_, &text);
  log_and_drop(error, "reading a request's id");
  return text == nullptr ? "" : text;
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

std::optional<uint64_t> Request::remaining_us() const {
  if (!deadline_) return std::nullopt;
  const auto left =
      std::chrono::duration_cast<std::chrono::microseconds>(*deadline_ - Clock::now()).count();
  return left > 1 ? static_cast<uint64_t>(left) : 1;
}

BackendResponse* Request::response() {
  if (response_ == nullptr) check_ok(api().TRITONBACKEND_ResponseNew(&response_, request_));
  return response_;
}

Tensor Request::output_buffer(std::string_view name, DataType type,
                              const std::vector<int64_t>& shape, uint64_t bytes,
                              const Device& wish) {
  Output* output = nullptr;
  check_ok(api().TRITONBACKEND_ResponseOutput(response(), &output, std::string(name).c_str(), type,
                                              shape.data(), static_cast<uint32_t>(shape.size())));
  void* buffer = nullptr;
  Place place = place_of(wish);
  check_ok(api().TRITONBACKEND_OutputBuffer(output, &buffer, bytes, &place.type, &place.id));
  return Tensor(buffer, DType::kU8, {static_cast<int64_t>(bytes)}, device_of(place));
}

Tensor Request::staged(const Tensor& target, const Device& device) {
  const Tensor made = device.is_cpu() ? Tensor::allocate(target.shape(), target.dtype())
                                      : pooled_tensor(*ctx_, target.shape(), target.dtype());
  staged_.push_back({made, target});
  return made;
}

Tensor Request::output(std::string_view name, DType dtype, const Shape& shape) {
  const auto bytes = static_cast<uint64_t>(shape.numel()) * size_of(dtype);
  const Device here = ctx_->device();
  const Tensor buffer = output_buffer(name, wire_type(dtype), sizes_of(shape), bytes, here);
  const Tensor target(buffer.raw(), dtype, shape, buffer.device());
  if (!is_usable(*ctx_, target)) return staged(target, here);
  if (!here.is_cpu()) handover_ = Handover::find(target);
  if (handover_ != nullptr) handover_->take_part(*ctx_);
  return target;
}

Tensor Request::host_output(std::string_view name, DType dtype, const Shape& shape) {
  const auto bytes = static_cast<uint64_t>(shape.numel()) * size_of(dtype);
  const Tensor buffer = output_buffer(name, wire_type(dtype), sizes_of(shape), bytes, Device{});
  const Tensor target(buffer.raw(), dtype, shape, buffer.device());
  return target.device().is_cpu() && is_usable(*ctx_, target) ? target : staged(target, Device{});
}

void Request::output_strings(std::string_view name, const std::vector<std::string>& texts,
                             int64_t rows) {
  uint64_t bytes = 0;
  for (const std::string& text : texts) bytes += sizeof(uint32_t) + text.size();
  const auto per_row = static_cast<int64_t>(texts.size()) / rows;
  Tensor target = output_buffer(name, DataType::kBytes, {rows, per_row}, bytes, Device{});
  if (!target.device().is_cpu()) target = staged(target, Device{});
  auto* buffer = target.data<char>();
  for (const std::string& text : texts) {
    const auto length = static_cast<uint32_t>(text.size());
    std::memcpy(buffer, &length, sizeof(length));
    std::memcpy(buffer + sizeof(length), text.data(), text.size());
    buffer += sizeof(length) + text.size();
  }
}

void Request::finish_outputs() {
  for (const Staged& output : staged_) copy_anywhere(*ctx_, output.made, output.target);
  finish(*ctx_);
}

void Request::set_flag(const char* name) {
  check_ok(api().TRITONBACKEND_ResponseSetBoolParameter(response(), name, true));
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

void Request::send(Instance* instance, uint64_t start_ns, uint64_t compute_start_ns,
                   uint64_t compute_end_ns) noexcept {
  // A request that wants no output is answered all the same.
  ServerError* error = guard([&] { response(); });
  if (error != nullptr) {
    log_and_drop(error, "answering a request");
    return;  // the destructor answers with an error
  }
  // Sending takes the response over, also when it fails.
  log_and_drop(
      api().TRITONBACKEND_ResponseSend(std::exchange(response_, nullptr), kResponseFinal, nullptr),
      "sending a response");
  release(instance, true, start_ns, compute_start_ns, compute_end_ns);
}

void Request::send_error(Instance* instance, const std::exception& error,
                         uint64_t start_ns) noexcept {
  // A response that already has outputs is dropped: an error carries none.
  if (response_ != nullptr) {
    log_and_drop(api().TRITONBACKEND_ResponseDelete(std::exchange(response_, nullptr)),
                 "dropping a response");
  }
  ServerError* created = api().TRITONBACKEND_ResponseNew(&response_, request_);
  if (created == nullptr) {
    ServerError* reason = to_server_error(error);
    log_and_drop(
        api().TRITONBACKEND_ResponseSend(std::exchange(response_, nullptr), kResponseFinal, reason),
        "sending an error");
    api().TRITONSERVER_ErrorDelete(reason);
  }
  log_and_drop(created, "creating an error response");
  const uint64_t now = now_ns();
  release(instance, false, start_ns, now, now);
}

}  // namespace flux::triton

#include "triton/response.h"

#include <cstring>
#include <utility>

#include "ops/kernels.h"
#include "triton/errors.h"
#include "triton/memory.h"
#include "triton/wire_type.h"

namespace flux::triton {
namespace {

std::vector<int64_t> sizes_of(const Shape& shape) {
  std::vector<int64_t> sizes;
  for (int i = 0; i < shape.rank(); ++i) sizes.push_back(shape[i]);
  return sizes;
}

}  // namespace

BackendResponse* Response::handle() {
  if (response_ == nullptr) check_ok(api().TRITONBACKEND_ResponseNew(&response_, request_));
  return response_;
}

Tensor Response::output_buffer(std::string_view name, DataType type,
                               const std::vector<int64_t>& shape, uint64_t bytes,
                               const Device& wish) {
  Output* output = nullptr;
  check_ok(api().TRITONBACKEND_ResponseOutput(handle(), &output, std::string(name).c_str(), type,
                                              shape.data(), static_cast<uint32_t>(shape.size())));
  void* buffer = nullptr;
  MemoryLocation location = location_of(wish);
  check_ok(api().TRITONBACKEND_OutputBuffer(output, &buffer, bytes, &location.type, &location.id));
  return Tensor(buffer, DType::kU8, {static_cast<int64_t>(bytes)}, device_of(location));
}

Tensor Response::staged(const Tensor& target, const Device& device) {
  const Tensor made = device.is_cpu() ? Tensor::allocate(target.shape(), target.dtype())
                                      : pooled_tensor(*ctx_, target.shape(), target.dtype());
  staged_.push_back({made, target});
  return made;
}

Tensor Response::output(std::string_view name, DType dtype, const Shape& shape) {
  const auto bytes = static_cast<uint64_t>(shape.numel()) * size_of(dtype);
  const Device here = ctx_->device();
  const Tensor buffer = output_buffer(name, wire_type(dtype), sizes_of(shape), bytes, here);
  const Tensor target(buffer.raw(), dtype, shape, buffer.device());
  made_.push_back({std::string(name), target});
  if (!is_usable(*ctx_, target)) return staged(target, here);
  if (!here.is_cpu()) handover_ = Handover::find(target);
  if (handover_ != nullptr) handover_->take_part(*ctx_);
  return target;
}

Tensor Response::host_output(std::string_view name, DType dtype, const Shape& shape) {
  const auto bytes = static_cast<uint64_t>(shape.numel()) * size_of(dtype);
  const Tensor buffer = output_buffer(name, wire_type(dtype), sizes_of(shape), bytes, Device{});
  const Tensor target(buffer.raw(), dtype, shape, buffer.device());
  return target.device().is_cpu() && is_usable(*ctx_, target) ? target : staged(target, Device{});
}

void Response::strings(std::string_view name, const std::vector<std::string>& texts, int64_t rows) {
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

Response::~Response() { drop(); }

void Response::drop() noexcept {
  if (response_ == nullptr) return;
  log_and_drop(api().TRITONBACKEND_ResponseDelete(std::exchange(response_, nullptr)),
               "dropping a response");
}

void Response::finish() {
  for (const Staged& output : staged_) copy_anywhere(*ctx_, output.made, output.target);
  flux::finish(*ctx_);
}

void Response::set_flag(const char* name) {
  check_ok(api().TRITONBACKEND_ResponseSetBoolParameter(handle(), name, true));
}

void Response::set_parameter(const char* name, const std::string& value) {
  check_ok(api().TRITONBACKEND_ResponseSetStringParameter(handle(), name, value.c_str()));
}

void Response::set_parameter(const char* name, int64_t value) {
  check_ok(api().TRITONBACKEND_ResponseSetIntParameter(handle(), name, value));
}

void Response::set_parameter(const char* name, double value) {
  check_ok(api().TRITONBACKEND_ResponseSetDoubleParameter(handle(), name, value));
}

void Response::send_part() {
  if (!staged_.empty()) finish();  // else nothing is on its way, and the GPU is not waited for
  BackendResponse* made = handle();
  response_ = nullptr;  // sending takes it over, also when it fails
  check_ok(api().TRITONBACKEND_ResponseSend(made, 0, nullptr));
}

bool Response::send() noexcept {
  // A request that wants no output is answered all the same.
  ServerError* error = guard([&] { handle(); });
  if (error != nullptr) {
    log_and_drop(error, "answering a request");
    return false;
  }
  // Sending takes the response over, also when it fails.
  log_and_drop(
      api().TRITONBACKEND_ResponseSend(std::exchange(response_, nullptr), kResponseFinal, nullptr),
      "sending a response");
  return true;
}

void Response::send_error(const std::exception& error) noexcept {
  // A response that already has outputs is dropped: an error carries none.
  drop();
  ServerError* created = api().TRITONBACKEND_ResponseNew(&response_, request_);
  if (created == nullptr) {
    ServerError* reason = to_server_error(error);
    log_and_drop(
        api().TRITONBACKEND_ResponseSend(std::exchange(response_, nullptr), kResponseFinal, reason),
        "sending an error");
    api().TRITONSERVER_ErrorDelete(reason);
  }
  log_and_drop(created, "creating an error response");
}

}  // namespace flux::triton

#include "triton/nested_call.h"

#include <chrono>
#include <cstring>

#include "ops/kernels.h"
#include "tensor/format.h"
#include "triton/errors.h"
#include "triton/wire_type.h"

namespace flux::triton {
namespace {

/// Throws a failure of a stage. A stage that is gone is unavailable: the server's own code for it
/// would tell clients that they asked for something that does not exist. A stage that does not take
/// what bls sends it is no client's fault. `reason` says what gone may mean. The place of a bug is
/// in the stage's own line of the log.
[[noreturn]] void fail_as_stage(const std::string& model, const Error& error,
                                std::string_view reason) {
  const bool gone = error.code() == ErrorCode::kNotFound || error.code() == ErrorCode::kUnavailable;
  const bool refused = error.code() == ErrorCode::kInvalidArgument;
  throw Error(gone      ? ErrorCode::kUnavailable
              : refused ? ErrorCode::kInternal
                        : error.code(),
              fmt::format("stage '{}'{}: {}", model, gone ? reason : "", error.what()),
              SourceLocation{});
}

}  // namespace

NestedCall::NestedCall(Server* server, std::string model, const std::string& id, Context& ctx)
    : server_(server), model_(std::move(model)), ctx_(ctx) {
  try {
    check_ok(api().TRITONSERVER_InferenceRequestNew(&request_, server, model_.c_str(), -1));
  } catch (const Error& e) {
    fail(ErrorCode::kUnavailable, "stage '{}' is not loaded or the server is stopping: {}", model_,
         e.what());
  }
  if (!id.empty()) {
    log_and_drop(api().TRITONSERVER_InferenceRequestSetId(request_, id.c_str()), "naming a call");
  }
}

NestedCall::~NestedCall() {
  if (started_) {
    // The other model may read inputs until it releases the request, even after its response.
    std::unique_lock lock(mutex_);
    if (!responded_) {
      lock.unlock();
      log_and_drop(api().TRITONSERVER_InferenceRequestCancel(request_), "cancelling a call");
      lock.lock();
    }
    changed_.wait(lock, [&] { return released_ && responded_; });
  }
  if (handover_) {
    // Memory of the call is used again only when the stage's GPU is done, however the call ended.
    log_and_drop(guard([&] { wait_for(ctx_, handover_->done()); }), "waiting for a stage's GPU");
  }
  if (response_ != nullptr) {
    log_and_drop(api().TRITONSERVER_InferenceResponseDelete(response_), "dropping a response");
  }
  if (request_ != nullptr) {
    log_and_drop(api().TRITONSERVER_InferenceRequestDelete(request_), "dropping a call");
  }
}

void NestedCall::add_raw(const char* name, DataType type, const std::vector<int64_t>& shape,
                         const ConstTensor& data) {
  check_ok(api().TRITONSERVER_InferenceRequestAddInput(request_, name, type, shape.data(),
                                                       shape.size()));
  const MemoryLocation location = location_of(data.device());
  check_ok(api().TRITONSERVER_InferenceRequestAppendInputData(
      request_, name, data.raw(), static_cast<size_t>(data.bytes()), location.type, location.id));
}

void NestedCall::add_bytes(const char* name, DataType type, const std::string& bytes) {
  const std::string& owned = owned_.emplace_back(bytes);
  add_raw(name, type, {1, 1}, ConstTensor(owned.data(), DType::kU8, {std::ssize(owned)}));
}

void NestedCall::add_input(const char* name, const ConstTensor& tensor) {
  std::vector<int64_t> shape = {1};
  for (int i = 0; i < tensor.rank(); ++i) shape.push_back(tensor.size(i));
  add_raw(name, wire_type(tensor.dtype()), shape, tensor);
}

void NestedCall::add_string(const char* name, std::string_view text) {
  const auto length = static_cast<uint32_t>(text.size());
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  bytes += text;
  add_bytes(name, DataType::kBytes, bytes);
}

void NestedCall::add_integer(const char* name, int32_t value) {
  std::string bytes(sizeof(value), '\0');
  std::memcpy(bytes.data(), &value, sizeof(value));
  add_bytes(name, DataType::kInt32, bytes);
}

void NestedCall::add_number(const char* name, float value) {
  std::string bytes(sizeof(value), '\0');
  std::memcpy(bytes.data(), &value, sizeof(value));
  add_bytes(name, DataType::kFp32, bytes);
}

NestedCall::Target& NestedCall::target_of(const char* name) {
  for (Target& target : targets_) {
    if (target.name == name) return target;
  }
  Target& added = targets_.emplace_back();
  added.name = name;
  return added;
}

void NestedCall::expect_output(const char* name, const Tensor& tensor) {
  Target& target = target_of(name);
  target.tensor = tensor;
  target.given = true;
}

void NestedCall::hand_over(const Tensor& output, std::shared_ptr<const Fence> ready) {
  handover_.emplace(output, std::move(ready));
}

void NestedCall::set_timeout(uint64_t microseconds) {
  check_ok(api().TRITONSERVER_InferenceRequestSetTimeoutMicroseconds(request_, microseconds));
}

void NestedCall::set_parameter(const char* name, const std::string& value) {
  check_ok(api().TRITONSERVER_InferenceRequestSetStringParameter(request_, name, value.c_str()));
}

void NestedCall::set_parameter(const char* name, int64_t value) {
  check_ok(api().TRITONSERVER_InferenceRequestSetIntParameter(request_, name, value));
}

Tensor NestedCall::new_output(size_t bytes, const MemoryLocation& wanted) const {
  const Shape shape{static_cast<int64_t>(bytes)};
  if (device_of(wanted).is_cpu() || ctx_.device().is_cpu()) {
    return Tensor::allocate(shape, DType::kU8);
  }
  return pooled_tensor(ctx_, shape, DType::kU8);
}

Allocator* NestedCall::allocator() {
  // The allocator lives as long as the process: responses refer to it until they are deleted.
  static Allocator* const instance = [] {
    Allocator* made = nullptr;
    check_ok(api().TRITONSERVER_ResponseAllocatorNew(&made, allocate, release_buffer, nullptr));
    return made;
  }();
  return instance;
}

ServerError* NestedCall::allocate(Allocator*, const char* tensor, size_t bytes, MemoryType wanted,
                                  int64_t wanted_id, void* user, void** buffer, void** buffer_user,
                                  MemoryType* actual, int64_t* actual_id) {
  return guard([&] {
    auto* call = static_cast<NestedCall*>(user);
    Target& target = call->target_of(tensor);
    if (target.given) {
      check(static_cast<size_t>(target.tensor.bytes()) == bytes, ErrorCode::kInternal,
            "output {} has {} bytes, {} are expected", tensor, bytes, target.tensor.bytes());
    } else {
      target.tensor = call->new_output(bytes, {wanted, wanted_id});
    }
    *buffer = target.tensor.raw();
    *buffer_user = nullptr;
    const MemoryLocation location = location_of(target.tensor.device());
    *actual = location.type;
    *actual_id = location.id;
  });
}

ServerError* NestedCall::release_buffer(Allocator*, void*, void*, size_t, MemoryType, int64_t) {
  return nullptr;  // the tensors own the memory
}

void NestedCall::on_release(NestedRequest*, uint32_t, void* user) {
  auto* call = static_cast<NestedCall*>(user);
  const std::scoped_lock lock(call->mutex_);
  call->released_ = true;
  // Under the lock: the waiter destroys the call as soon as it sees the flag.
  call->changed_.notify_all();
}

void NestedCall::on_response(NestedResponse* response, uint32_t flags, void* user) {
  auto* call = static_cast<NestedCall*>(user);
  const std::scoped_lock lock(call->mutex_);
  if (response != nullptr) call->response_ = response;
  if ((flags & kResponseFinal) != 0) call->responded_ = true;
  call->changed_.notify_all();
}

void NestedCall::start(Trace* trace) {
  check_ok(api().TRITONSERVER_InferenceRequestSetReleaseCallback(request_, on_release, this));
  check_ok(api().TRITONSERVER_InferenceRequestSetResponseCallback(request_, allocator(), this,
                                                                  on_response, this));
  started_ = true;
  ServerError* error = api().TRITONSERVER_ServerInferAsync(server_, request_, trace);
  if (error == nullptr) return;
  started_ = false;
  if (trace != nullptr) {
    log_and_drop(api().TRITONSERVER_InferenceTraceDelete(trace), "deleting a trace");
  }
  try {
    check_ok(error);
  } catch (const Error& e) {
    fail_as_stage(model_, e, " is not loaded, is full, or the server is stopping");
  }
}

void NestedCall::wait(const std::function<bool()>& stopped) {
  constexpr auto kPollInterval = std::chrono::milliseconds(20);
  std::unique_lock lock(mutex_);
  bool cancelled = false;
  while (!(released_ && responded_)) {
    changed_.wait_for(lock, kPollInterval);
    if (cancelled || (released_ && responded_) || !stopped()) continue;
    cancelled = true;
    lock.unlock();
    log_and_drop(api().TRITONSERVER_InferenceRequestCancel(request_), "cancelling a call");
    lock.lock();
  }
  lock.unlock();
  try {
    check(response_ != nullptr, ErrorCode::kUnavailable, "stage '{}' gave no response", model_);
    read_response(response_);
  } catch (const Error&) {
    // A stage that found the time over says so in its own way; to the client it is one thing.
    if (!cancelled && !stopped()) throw;
    cancelled = true;
  }
  check(!cancelled, ErrorCode::kCancelled, "cancelled in stage '{}'", model_);
}

void NestedCall::read_response(NestedResponse* response) {
  if (ServerError* error = api().TRITONSERVER_InferenceResponseError(response)) {
    try {
      check_ok(error);
    } catch (const Error& e) {
      if (!refusal_word_.empty() && std::string_view(e.what()).starts_with(refusal_word_)) throw;
      fail_as_stage(model_, e, "");
    }
  }
  uint32_t count = 0;
  check_ok(api().TRITONSERVER_InferenceResponseOutputCount(response, &count));
  for (uint32_t i = 0; i < count; ++i) {
    const char* name = nullptr;
    DataType type = DataType::kInvalid;
    const int64_t* shape = nullptr;
    uint64_t rank = 0;
    const void* base = nullptr;
    size_t bytes = 0;
    MemoryType memory = MemoryType::kCpu;
    int64_t id = 0;
    void* user = nullptr;
    check_ok(api().TRITONSERVER_InferenceResponseOutput(response, i, &name, &type, &shape, &rank,
                                                        &base, &bytes, &memory, &id, &user));
    Target& target = target_of(name);
    const std::optional<DType> dtype = floating_dtype(type);
    check(dtype && rank >= 2 && rank <= 5 && shape[0] == 1 && target.tensor.defined(),
          ErrorCode::kInternal, "stage '{}' answered output {} in a form that is not expected",
          model_, name);
    const Shape inner(shape + 1, static_cast<int>(rank) - 1);
    if (target.given) {
      check(target.tensor.shape() == inner && target.tensor.dtype() == *dtype, ErrorCode::kInternal,
            "stage '{}' answered {} as {}{}, expected {}", model_, name, *dtype, inner,
            target.tensor);
      continue;
    }
    check(bytes == static_cast<size_t>(inner.numel()) * size_of(*dtype), ErrorCode::kInternal,
          "stage '{}' answered {} bytes for {} of {}", model_, bytes, name, inner);
    // The tensor was allocated as bytes; this one has the type, and the byte tensor as its owner.
    const auto owner = std::make_shared<Tensor>(target.tensor);
    target.tensor = Tensor(owner->raw(), *dtype, inner, owner->device(), owner);
  }
  uint32_t parameters = 0;
  check_ok(api().TRITONSERVER_InferenceResponseParameterCount(response, &parameters));
  for (uint32_t i = 0; i < parameters; ++i) {
    const char* name = nullptr;
    ParameterType type = ParameterType::kString;
    const void* value = nullptr;
    check_ok(api().TRITONSERVER_InferenceResponseParameter(response, i, &name, &type, &value));
    if (type == ParameterType::kBool && *static_cast<const bool*>(value)) flags_.emplace_back(name);
  }
}

Tensor NestedCall::take_output(const char* name) const {
  for (const Target& target : targets_) {
    if (target.name == name && target.tensor.defined()) return target.tensor;
  }
  fail(ErrorCode::kInternal, "stage '{}' answered without output {}", model_, name);
}

bool NestedCall::flag(const char* name) const {
  for (const std::string& flag : flags_) {
    if (flag == name) return true;
  }
  return false;
}

}  // namespace flux::triton

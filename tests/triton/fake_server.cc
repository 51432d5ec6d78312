#include "fake_server.h"

#include <cstring>

namespace flux::triton {

void* NestedRequest::allocate(const std::string& name, size_t bytes) {
  void* buffer = nullptr;
  void* buffer_user = nullptr;
  MemoryType memory = MemoryType::kCpu;
  int64_t device = 0;
  delete allocator->allocate(allocator, name.c_str(), bytes, MemoryType::kCpu, 0, user, &buffer,
                             &buffer_user, &memory, &device);
  return buffer;
}

void NestedRequest::answer(std::list<Output> outputs, std::vector<std::string> flags) {
  for (Output& output : outputs) {
    output.address = allocate(output.name, output.bytes.size());
    if (output.address == nullptr) {
      return answer_error(ServerErrorCode::kInternal, "no memory for " + output.name);
    }
    std::memcpy(output.address, output.bytes.data(), output.bytes.size());
  }
  auto* response = new NestedResponse;
  response->outputs = std::move(outputs);
  response->flags = std::move(flags);
  responded(response, kResponseFinal, user);
}

void NestedRequest::answer_error(ServerErrorCode code, const std::string& text) {
  auto* response = new NestedResponse;
  response->error = std::make_unique<ServerError>(code, text);
  responded(response, kResponseFinal, user);
}

void NestedRequest::answer_nothing() { responded(nullptr, kResponseFinal, user); }

void NestedRequest::release() { released(this, kReleaseAll, released_user); }

void NestedRequest::wait_for_cancellation() const {
  while (!cancelled) std::this_thread::yield();
}

void Server::join() {
  for (std::thread& thread : threads) thread.join();
  threads.clear();
}

World& world() {
  static World instance;
  return instance;
}

void World::reset() {
  const std::scoped_lock lock(mutex_);
  failures_.clear();
  log_.clear();
}

void World::fail_next(const std::string& function, ServerErrorCode code, const std::string& text,
                      int after) {
  const std::scoped_lock lock(mutex_);
  failures_[function] = {code, text, after};
}

ServerError* World::planned(const char* function) {
  const std::scoped_lock lock(mutex_);
  const auto found = failures_.find(function);
  if (found == failures_.end() || found->second.after-- > 0) return nullptr;
  auto* error = new ServerError(found->second.code, found->second.text);
  failures_.erase(found);
  return error;
}

void World::log(const char* line) {
  const std::scoped_lock lock(mutex_);
  log_ += line;
  log_ += '\n';
}

std::string World::log() const {
  const std::scoped_lock lock(mutex_);
  return log_;
}

FakeServerTest::FakeServerTest() {
  world().reset();
  EXPECT_EQ(TRITONBACKEND_Initialize(nullptr), nullptr);
}

FakeServerTest::~FakeServerTest() {
  server.join();
  EXPECT_EQ(Counted::alive, 0) << "the backend kept errors, responses or requests";
  EXPECT_EQ(world().planned_count(), 0U) << "a planned failure did not happen";
}

extern "C" {

ServerError* TRITONSERVER_ApiVersion(uint32_t* major, uint32_t* minor) {
  *major = 1;
  *minor = 34;
  return nullptr;
}
ServerError* TRITONBACKEND_ApiVersion(uint32_t* major, uint32_t* minor) {
  *major = 1;
  *minor = 19;
  return nullptr;
}
const char* TRITONSERVER_DataTypeString(DataType type) {
  constexpr const char* kNames[] = {"INVALID", "BOOL", "UINT8", "UINT16", "UINT32",
                                    "UINT64",  "INT8", "INT16", "INT32",  "INT64",
                                    "FP16",    "FP32", "FP64",  "BYTES",  "BF16"};
  return kNames[static_cast<size_t>(type)];
}
uint32_t TRITONSERVER_DataTypeByteSize(DataType type) { return type == DataType::kFp32 ? 4 : 0; }
const char* TRITONSERVER_MemoryTypeString(MemoryType) { return "GPU"; }
const char* TRITONSERVER_ParameterTypeString(ParameterType) { return "DOUBLE"; }

ServerError* TRITONSERVER_ErrorNew(ServerErrorCode code, const char* text) {
  return new ServerError(code, text);
}
void TRITONSERVER_ErrorDelete(ServerError* error) { delete error; }
ServerErrorCode TRITONSERVER_ErrorCode(ServerError* error) { return error->code; }
const char* TRITONSERVER_ErrorCodeString(ServerError* error) {
  return error->code == ServerErrorCode::kUnavailable ? "Unavailable" : "other";
}
const char* TRITONSERVER_ErrorMessage(ServerError* error) { return error->text.c_str(); }
ServerError* TRITONSERVER_LogMessage(ServerLogLevel, const char*, int, const char* text) {
  world().log(text);
  return nullptr;
}
ServerError* TRITONSERVER_MessageSerializeToJson(Message* message, const char** text,
                                                 size_t* bytes) {
  *text = message->json.c_str();
  *bytes = message->json.size();
  return world().planned(__func__);
}
ServerError* TRITONSERVER_MessageDelete(Message* message) {
  delete message;
  return nullptr;
}

// Nested requests.
ServerError* TRITONSERVER_InferenceRequestNew(NestedRequest** request, Server* server,
                                              const char* model, int64_t) {
  if (!server->models.contains(model)) {
    return new ServerError(ServerErrorCode::kNotFound, std::string("unknown model ") + model);
  }
  *request = new NestedRequest;
  (*request)->model = model;
  return nullptr;
}
ServerError* TRITONSERVER_InferenceRequestDelete(NestedRequest* request) {
  delete request;
  return nullptr;
}
ServerError* TRITONSERVER_InferenceRequestCancel(NestedRequest* request) {
  request->cancelled = true;
  return nullptr;
}
ServerError* TRITONSERVER_InferenceRequestSetId(NestedRequest* request, const char* id) {
  request->id = id;
  return nullptr;
}
ServerError* TRITONSERVER_InferenceRequestSetTimeoutMicroseconds(NestedRequest* request,
                                                                 uint64_t timeout) {
  request->timeout_us = timeout;
  return nullptr;
}
ServerError* TRITONSERVER_InferenceRequestSetStringParameter(NestedRequest* request,
                                                             const char* name, const char* value) {
  request->parameters[name] = value;
  return nullptr;
}
ServerError* TRITONSERVER_InferenceRequestSetIntParameter(NestedRequest* request, const char* name,
                                                          int64_t value) {
  request->parameters[name] = std::to_string(value);
  return nullptr;
}
ServerError* TRITONSERVER_InferenceRequestAddInput(NestedRequest* request, const char* name,
                                                   DataType type, const int64_t* shape,
                                                   uint64_t rank) {
  request->inputs[name] = {type, {shape, shape + rank}, nullptr, 0};
  return nullptr;
}
ServerError* TRITONSERVER_InferenceRequestAppendInputData(NestedRequest* request, const char* name,
                                                          const void* address, size_t bytes,
                                                          MemoryType, int64_t) {
  request->inputs[name].address = address;
  request->inputs[name].bytes = bytes;
  return nullptr;
}
ServerError* TRITONSERVER_InferenceRequestSetReleaseCallback(NestedRequest* request,
                                                             ReleaseRequestFn released,
                                                             void* user) {
  request->released = released;
  request->released_user = user;
  return nullptr;
}
ServerError* TRITONSERVER_InferenceRequestSetResponseCallback(NestedRequest* request,
                                                              Allocator* allocator, void* user,
                                                              ResponseFn responded, void*) {
  request->allocator = allocator;
  request->responded = responded;
  request->user = user;
  return nullptr;
}
ServerError* TRITONSERVER_ServerModelIsReady(Server* server, const char* model, int64_t,
                                             bool* ready) {
  *ready = server->models.contains(model);
  return nullptr;
}
ServerError* TRITONSERVER_ServerInferAsync(Server* server, NestedRequest* request, Trace*) {
  if (ServerError* error = world().planned(__func__)) return error;
  request->cancelled = false;  // what was cancelled before it began is not remembered
  const std::scoped_lock lock(server->mutex);
  server->threads.emplace_back([server, request] { server->models.at(request->model)(*request); });
  return nullptr;
}
ServerError* TRITONSERVER_InferenceTraceSpawnChildTrace(Trace*, Trace**) { return nullptr; }
ServerError* TRITONSERVER_InferenceTraceDelete(Trace*) { return nullptr; }
ServerError* TRITONSERVER_ResponseAllocatorNew(Allocator** allocator, AllocateFn allocate,
                                               ReleaseBufferFn release, StartFn) {
  *allocator = new Allocator{allocate, release};
  return nullptr;
}
ServerError* TRITONSERVER_ResponseAllocatorDelete(Allocator* allocator) {
  delete allocator;
  return nullptr;
}
ServerError* TRITONSERVER_InferenceResponseError(NestedResponse* response) {
  // A new one each time, as the server makes it.
  const ServerError* error = response->error.get();
  return error == nullptr ? nullptr : new ServerError(error->code, error->text);
}
ServerError* TRITONSERVER_InferenceResponseDelete(NestedResponse* response) {
  delete response;
  return nullptr;
}
ServerError* TRITONSERVER_InferenceResponseOutputCount(NestedResponse* response, uint32_t* count) {
  *count = static_cast<uint32_t>(response->outputs.size());
  return nullptr;
}
ServerError* TRITONSERVER_InferenceResponseOutput(NestedResponse* response, uint32_t index,
                                                  const char** name, DataType* type,
                                                  const int64_t** shape, uint64_t* rank,
                                                  const void** base, size_t* bytes,
                                                  MemoryType* memory, int64_t* id, void**) {
  const Output& output = *std::next(response->outputs.begin(), index);
  *name = output.name.c_str();
  *type = output.type;
  *shape = output.shape.data();
  *rank = output.shape.size();
  *base = output.address;
  *bytes = output.bytes.size();
  *memory = MemoryType::kCpu;
  *id = 0;
  return nullptr;
}
ServerError* TRITONSERVER_InferenceResponseParameterCount(NestedResponse* response,
                                                          uint32_t* count) {
  *count = static_cast<uint32_t>(response->flags.size());
  return nullptr;
}
ServerError* TRITONSERVER_InferenceResponseParameter(NestedResponse* response, uint32_t index,
                                                     const char** name, ParameterType* type,
                                                     const void** value) {
  static const bool yes = true;
  *name = response->flags[index].c_str();
  *type = ParameterType::kBool;
  *value = &yes;
  return nullptr;
}

// Metrics: this server has none.
ServerError* TRITONSERVER_MetricFamilyNew(MetricFamily**, MetricKind, const char*, const char*) {
  return new ServerError(ServerErrorCode::kUnsupported, "metrics not supported");
}
ServerError* TRITONSERVER_MetricFamilyDelete(MetricFamily*) { return nullptr; }
ServerError* TRITONSERVER_MetricNew(Metric**, MetricFamily*, const Label**, uint64_t) {
  return nullptr;
}
ServerError* TRITONSERVER_MetricDelete(Metric*) { return nullptr; }
ServerError* TRITONSERVER_MetricIncrement(Metric*, double) { return nullptr; }
ServerError* TRITONSERVER_MetricSet(Metric*, double) { return nullptr; }
Label* TRITONSERVER_ParameterNew(const char*, ParameterType, const void*) { return nullptr; }
void TRITONSERVER_ParameterDelete(Label*) {}

}  // extern "C"
}  // namespace flux::triton

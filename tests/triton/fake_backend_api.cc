// The functions that a backend calls for its models and their requests.
#include <cstring>
#include <tuple>

#include "fake_server.h"

namespace flux::triton {
namespace {

/// Memory for some bytes, `offset` after an aligned address.
void* place(std::vector<std::byte>& owned, size_t bytes, size_t offset) {
  owned.resize(bytes + offset + 1);
  return owned.data() + offset;
}

std::pair<ParameterType, const void*> wire(const ParameterValue& value) {
  if (const auto* text = std::get_if<std::string>(&value)) {
    return {ParameterType::kString, text->c_str()};
  }
  if (const auto* number = std::get_if<int64_t>(&value)) return {ParameterType::kInt, number};
  if (const auto* flag = std::get_if<bool>(&value)) return {ParameterType::kBool, flag};
  return {ParameterType::kDouble, &std::get<double>(value)};
}

template <typename Container>
auto& nth(Container& container, uint32_t index) {
  return *std::next(container.begin(), index);
}

}  // namespace

extern "C" {

// Models and instances.
ServerError* TRITONBACKEND_BackendConfig(ServerBackend*, Message** message) {
  static Message config{"{}"};  // stays the server's
  *message = &config;
  return nullptr;
}
ServerError* TRITONBACKEND_ModelName(Model* model, const char** name) {
  *name = model->name.c_str();
  return world().planned(__func__);
}
ServerError* TRITONBACKEND_ModelVersion(Model*, uint64_t* version) {
  *version = 1;
  return nullptr;
}
ServerError* TRITONBACKEND_ModelRepository(Model* model, int* type, const char** location) {
  *type = 0;
  *location = model->repository.c_str();
  return nullptr;
}
ServerError* TRITONBACKEND_ModelConfig(Model* model, uint32_t, Message** message) {
  *message = new Message{model->config};
  return nullptr;
}
ServerError* TRITONBACKEND_ModelServer(Model* model, Server** server) {
  *server = model->server;
  return nullptr;
}
ServerError* TRITONBACKEND_ModelState(Model* model, void** state) {
  *state = model->state;
  return nullptr;
}
ServerError* TRITONBACKEND_ModelSetState(Model* model, void* state) {
  model->state = state;
  return nullptr;
}
ServerError* TRITONBACKEND_ModelInstanceName(Instance* instance, const char** name) {
  *name = instance->model->name.c_str();
  return nullptr;
}
ServerError* TRITONBACKEND_ModelInstanceKind(Instance* instance, InstanceKind* kind) {
  *kind = instance->kind;
  return nullptr;
}
ServerError* TRITONBACKEND_ModelInstanceDeviceId(Instance*, int32_t* id) {
  *id = 0;
  return nullptr;
}
ServerError* TRITONBACKEND_ModelInstanceModel(Instance* instance, Model** model) {
  *model = instance->model;
  return nullptr;
}
ServerError* TRITONBACKEND_ModelInstanceState(Instance* instance, void** state) {
  *state = instance->state;
  return world().planned(__func__);
}
ServerError* TRITONBACKEND_ModelInstanceSetState(Instance* instance, void* state) {
  instance->state = state;
  return nullptr;
}
ServerError* TRITONBACKEND_ModelInstanceReportStatistics(Instance*, BackendRequest* request,
                                                         bool success, uint64_t, uint64_t, uint64_t,
                                                         uint64_t) {
  request->reports.push_back(success && request->releases == 0);
  return nullptr;
}
ServerError* TRITONBACKEND_ModelInstanceReportBatchStatistics(Instance* instance, uint64_t rows,
                                                              uint64_t, uint64_t, uint64_t,
                                                              uint64_t) {
  instance->batches.push_back(rows);
  return nullptr;
}

// Requests to the backend.
ServerError* TRITONBACKEND_RequestId(BackendRequest* request, const char** id) {
  *id = request->id.c_str();
  return world().planned(__func__);
}
ServerError* TRITONBACKEND_RequestInputCount(BackendRequest* request, uint32_t* count) {
  *count = static_cast<uint32_t>(request->inputs.size());
  return world().planned(__func__);
}
ServerError* TRITONBACKEND_RequestInputByIndex(BackendRequest* request, uint32_t index,
                                               Input** input) {
  *input = &nth(request->inputs, index);
  return nullptr;
}
ServerError* TRITONBACKEND_RequestOutputCount(BackendRequest* request, uint32_t* count) {
  *count = static_cast<uint32_t>(request->wanted.size());
  return nullptr;
}
ServerError* TRITONBACKEND_RequestOutputName(BackendRequest* request, uint32_t index,
                                             const char** name) {
  *name = request->wanted[index].c_str();
  return nullptr;
}
ServerError* TRITONBACKEND_RequestParameterCount(BackendRequest* request, uint32_t* count) {
  *count = static_cast<uint32_t>(request->parameters.size());
  return nullptr;
}
ServerError* TRITONBACKEND_RequestParameter(BackendRequest* request, uint32_t index,
                                            const char** name, ParameterType* type,
                                            const void** value) {
  const auto& [key, stored] = nth(request->parameters, index);
  *name = key.c_str();
  std::tie(*type, *value) = wire(stored);
  return nullptr;
}
ServerError* TRITONSERVER_InferenceRequestPriorityUInt64(BackendRequest*, uint64_t* priority) {
  *priority = 0;
  return nullptr;
}
ServerError* TRITONBACKEND_InferenceRequestTimeoutMicroseconds(BackendRequest* request,
                                                               uint64_t* timeout) {
  *timeout = request->timeout_us;
  return world().planned(__func__);
}
ServerError* TRITONBACKEND_RequestIsCancelled(BackendRequest* request, bool* cancelled) {
  *cancelled = request->cancelled;
  return world().planned(__func__);
}
ServerError* TRITONBACKEND_RequestTrace(BackendRequest*, Trace** trace) {
  *trace = nullptr;
  return nullptr;
}
ServerError* TRITONBACKEND_RequestRelease(BackendRequest* request, uint32_t flags) {
  EXPECT_EQ(flags, kReleaseAll);
  ++request->releases;
  return world().planned(__func__);
}
ServerError* TRITONBACKEND_InputProperties(Input* input, const char** name, DataType* type,
                                           const int64_t** shape, uint32_t* rank, uint64_t* bytes,
                                           uint32_t* buffers) {
  *name = input->name.c_str();
  *type = input->type;
  *shape = input->shape.data();
  *rank = static_cast<uint32_t>(input->shape.size());
  *buffers = static_cast<uint32_t>(input->pieces.size());
  *bytes = 0;
  for (const std::string& piece : input->pieces) *bytes += piece.size();
  return nullptr;
}
ServerError* TRITONBACKEND_InputBuffer(Input* input, uint32_t index, const void** address,
                                       uint64_t* bytes, MemoryType* memory, int64_t* id) {
  input->memory.resize(input->pieces.size());
  const std::string& piece = input->pieces[index];
  void* target = place(input->memory[index], piece.size(), input->offset);
  std::memcpy(target, piece.data(), piece.size());
  *address = target;
  *bytes = piece.size();
  *memory = MemoryType::kCpu;
  *id = 0;
  return world().planned(__func__);
}

// Responses of the backend.
ServerError* TRITONBACKEND_ResponseNew(BackendResponse** response, BackendRequest* request) {
  EXPECT_EQ(request->releases, 0) << "a response after the release";
  if (ServerError* error = world().planned(__func__)) return error;
  *response = new BackendResponse;
  (*response)->request = request;
  return nullptr;
}
ServerError* TRITONBACKEND_ResponseDelete(BackendResponse* response) {
  delete response;
  return nullptr;
}
ServerError* TRITONBACKEND_ResponseOutput(BackendResponse* response, Output** output,
                                          const char* name, DataType type, const int64_t* shape,
                                          uint32_t rank) {
  if (ServerError* error = world().planned(__func__)) return error;
  Output& made = response->outputs.emplace_back();
  made.name = name;
  made.type = type;
  made.shape.assign(shape, shape + rank);
  made.memory = response->request->output_memory;
  made.device = response->request->output_device;
  made.offset = response->request->output_offset;
  *output = &made;
  return nullptr;
}
ServerError* TRITONBACKEND_OutputBuffer(Output* output, void** buffer, uint64_t bytes,
                                        MemoryType* memory, int64_t* id) {
  if (ServerError* error = world().planned(__func__)) return error;
  output->address = place(output->owned, bytes, output->offset);
  output->bytes.resize(bytes);
  *buffer = output->address;
  *memory = output->memory;
  *id = output->device;
  return nullptr;
}
ServerError* TRITONBACKEND_ResponseSetBoolParameter(BackendResponse* response, const char* name,
                                                    bool value) {
  if (value) response->flags.emplace_back(name);
  return nullptr;
}
ServerError* TRITONBACKEND_ResponseSetStringParameter(BackendResponse* response, const char* name,
                                                      const char* value) {
  response->texts[name] = value;
  return nullptr;
}
ServerError* TRITONBACKEND_ResponseSetIntParameter(BackendResponse* response, const char* name,
                                                   int64_t value) {
  response->numbers[name] = static_cast<double>(value);
  return nullptr;
}
ServerError* TRITONBACKEND_ResponseSetDoubleParameter(BackendResponse* response, const char* name,
                                                      double value) {
  response->numbers[name] = value;
  return nullptr;
}
ServerError* TRITONBACKEND_ResponseSend(BackendResponse* response, uint32_t flags,
                                        ServerError* error) {
  const std::unique_ptr<BackendResponse> taken(response);  // also when sending fails
  BackendRequest::Answer& answer = response->request->answers.emplace_back();
  for (Output& output : response->outputs) {
    if (!output.bytes.empty()) {
      std::memcpy(output.bytes.data(), output.address, output.bytes.size());
    }
  }
  answer.outputs = std::move(response->outputs);
  answer.flags = std::move(response->flags);
  answer.texts = std::move(response->texts);
  answer.numbers = std::move(response->numbers);
  answer.final = flags == kResponseFinal;
  if (error != nullptr) {
    answer.error = error->text;
    answer.code = error->code;
  }
  return world().planned(__func__);
}

}  // extern "C"
}  // namespace flux::triton

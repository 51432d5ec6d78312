#include "front/triton_messages.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "pipeline/model_names.h"

namespace flux::front {
namespace {

/// Words of errors that pass: of this project's pipelines, and of Triton's core.
constexpr std::string_view kPassing[] = {"out of memory", "is not loaded", "gave no response",
                                         "stopping",      "stopped",       "cancelled",
                                         "timeout",       "Timeout",       "maximum queue",
                                         "unknown model", "is not ready",  "no available versions"};

const char* type_name(ValueType type) {
  switch (type) {
    case ValueType::kText:
      return "BYTES";
    case ValueType::kInt32:
      return "INT32";
    case ValueType::kInt64:
      return "INT64";
    case ValueType::kFloat32:
      return "FP32";
    case ValueType::kBool:
      return "BOOL";
  }
  return "";
}

template <typename T>
std::string bytes_of(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

/// A tensor's bytes as the protocol has them: a text follows its length.
std::string raw_bytes(const InputValue& input) {
  switch (input.type) {
    case ValueType::kText: {
      const auto& text = std::get<std::string>(input.value);
      return bytes_of(static_cast<uint32_t>(text.size())) + text;
    }
    case ValueType::kInt32:
      return bytes_of(static_cast<int32_t>(std::get<int64_t>(input.value)));
    case ValueType::kInt64:
      return bytes_of(std::get<int64_t>(input.value));
    case ValueType::kFloat32:
      return bytes_of(static_cast<float>(std::get<double>(input.value)));
    case ValueType::kBool:
      return bytes_of(std::get<bool>(input.value));
  }
  return {};
}

void add_input(inference::ModelInferRequest& request, const InputValue& input) {
  auto& tensor = *request.add_inputs();
  tensor.set_name(input.name);
  tensor.set_datatype(type_name(input.type));
  tensor.add_shape(1);  // a row
  tensor.add_shape(1);
  request.add_raw_input_contents(raw_bytes(input));
}

void add_parameter(inference::ModelInferRequest& request, const InputValue& input) {
  auto& parameter = (*request.mutable_parameters())[input.name];
  if (const auto* text = std::get_if<std::string>(&input.value)) parameter.set_string_param(*text);
  if (const auto* integer = std::get_if<int64_t>(&input.value)) parameter.set_int64_param(*integer);
  if (const auto* number = std::get_if<double>(&input.value)) parameter.set_double_param(*number);
  if (const auto* flag = std::get_if<bool>(&input.value)) parameter.set_bool_param(*flag);
}

/// The texts of a BYTES tensor; what does not fit its lengths is left out.
std::vector<std::string> texts_of(std::string_view raw) {
  std::vector<std::string> texts;
  uint32_t length = 0;
  while (raw.size() >= sizeof length) {
    std::memcpy(&length, raw.data(), sizeof length);
    raw.remove_prefix(sizeof length);
    if (length > raw.size()) break;
    texts.emplace_back(raw.substr(0, length));
    raw.remove_prefix(length);
  }
  return texts;
}

template <typename T>
T first_of(const std::string& raw) {
  T value{};
  if (raw.size() >= sizeof value) std::memcpy(&value, raw.data(), sizeof value);
  return value;
}

/// Whether the model is one of those that pipelines of this prefix call.
bool is_stage_of(const std::string& prefix, std::string_view model) {
  if (!model.starts_with(prefix)) return false;
  const std::string_view kind = model.substr(prefix.size());
  return kind != "bls" &&
         std::find(std::begin(kModelNames), std::end(kModelNames), kind) != std::end(kModelNames);
}

std::optional<ValueType> value_type(const inference::ModelInput& input) {
  if (input.dims_size() != 1 || input.dims(0) != 1) return std::nullopt;
  switch (input.data_type()) {
    case inference::TYPE_STRING:
      return ValueType::kText;
    case inference::TYPE_INT32:
      return ValueType::kInt32;
    case inference::TYPE_INT64:
      return ValueType::kInt64;
    case inference::TYPE_FP32:
      return ValueType::kFloat32;
    case inference::TYPE_BOOL:
      return ValueType::kBool;
    default:
      return std::nullopt;
  }
}

}  // namespace

inference::ModelInferRequest infer_request(const PipelineCall& call) {
  inference::ModelInferRequest request;
  request.set_model_name(call.model);
  for (const InputValue& input : call.request.inputs) add_input(request, input);
  add_input(request, {"preview_every", ValueType::kInt32, int64_t{call.preview_every}});
  for (const InputValue& input : call.request.parameters) add_parameter(request, input);
  auto& parameters = *request.mutable_parameters();
  if (call.request.priority > 0) {
    parameters["priority"].set_uint64_param(static_cast<uint64_t>(call.request.priority));
  }
  if (call.timeout_us > 0) parameters["timeout"].set_int64_param(call.timeout_us);
  return request;
}

StepUpdate read_response(inference::ModelInferResponse& response) {
  StepUpdate update;
  const int count = std::min(response.outputs_size(), response.raw_output_contents_size());
  for (int i = 0; i < count; ++i) {
    const std::string& name = response.outputs(i).name();
    const std::string& raw = response.raw_output_contents(i);
    if (name == "step") update.step = first_of<int32_t>(raw);
    if (name == "total_steps") update.total_steps = first_of<int32_t>(raw);
    if (name == "preview") update.previews = texts_of(raw);
    if (name == "encoded_images") update.images = texts_of(raw);
    if (name == "seed") update.seed = first_of<int64_t>(raw);
  }
  const auto estimate = response.parameters().find("estimated_seconds");
  if (estimate != response.parameters().end()) {
    update.estimated_seconds = estimate->second.double_param();
  }
  return update;
}

std::vector<PipelineInfo> pipelines_of(const inference::RepositoryIndexResponse& index) {
  std::set<std::string> ready;
  std::set<std::string> known;
  for (const auto& model : index.models()) {
    known.insert(model.name());
    if (model.state() == "READY") ready.insert(model.name());
  }
  std::vector<PipelineInfo> pipelines;
  for (const std::string& model : known) {
    if (!model.ends_with(kStreamName)) continue;
    PipelineInfo pipeline;
    pipeline.model = model;
    pipeline.prefix = model.substr(0, model.size() - kStreamName.size());
    if (!pipeline.prefix.empty() && !pipeline.prefix.ends_with('_')) continue;
    pipeline.id = pipeline.prefix.empty() ? "bls" : pipeline.prefix;
    if (!pipeline.prefix.empty()) pipeline.id.pop_back();
    if (pipeline.id.empty()) continue;
    pipeline.ready = ready.count(model) > 0 &&
                     std::all_of(known.begin(), known.end(), [&](const std::string& each) {
                       return !is_stage_of(pipeline.prefix, each) || ready.count(each) > 0;
                     });
    pipelines.push_back(std::move(pipeline));
  }
  return pipelines;
}

void read_config(const inference::ModelConfig& config, PipelineInfo& pipeline) {
  int instances = 0;
  for (const auto& group : config.instance_group()) instances += std::max(group.count(), 0);
  pipeline.instances = std::max(instances, 1);
  for (const auto& input : config.input()) {
    if (const auto type = value_type(input)) pipeline.inputs.emplace(input.name(), *type);
  }
  const auto width = config.parameters().find("default_width");
  const auto height = config.parameters().find("default_height");
  if (width != config.parameters().end() && height != config.parameters().end()) {
    pipeline.default_size = width->second.string_value() + "x" + height->second.string_value();
  }
}

ApiError error_in_stream(const std::string& message, const inference::ModelInferRequest& request) {
  const std::string_view name = named_input(message);
  const bool is_input =
      std::any_of(request.inputs().begin(), request.inputs().end(),
                  [&](const inference::ModelInferRequest::InferInputTensor& input) {
                    return input.name() == name;
                  });
  const bool is_parameter = request.parameters().count(std::string(name)) > 0;
  const bool is_missing = message.starts_with(std::string(name) + " is missing: ");
  if (is_input || is_parameter || is_missing) return ApiError(400, message, {}, "invalid_value");
  const bool passes =
      std::any_of(std::begin(kPassing), std::end(kPassing),
                  [&](std::string_view words) { return message.find(words) != message.npos; });
  return passes ? ApiError(503, message, {}, "unavailable") : ApiError(500, message);
}

std::optional<ApiError> error_of(const grpc::Status& status) {
  const std::string& message = status.error_message();
  switch (status.error_code()) {
    case grpc::StatusCode::OK:
      return std::nullopt;
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
    case grpc::StatusCode::CANCELLED:
      return ApiError(503, message, {}, "unavailable");
    default:
      return ApiError(500, message);
  }
}

}  // namespace flux::front

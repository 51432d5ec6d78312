#include "triton/model.h"

#include "ops/registry.h"
#include "support/log.h"
#include "triton/bls_model.h"
#include "triton/errors.h"
#include "triton/memory.h"
#include "triton/options.h"
#include "triton/stage_models.h"

namespace flux::triton {

std::string ModelSettings::parameter(const char* key) const {
  const auto parameters = config.value("parameters", nlohmann::json::object());
  const auto found = parameters.find(key);
  check(found != parameters.end() && found->contains("string_value"), ErrorCode::kInvalidArgument,
        "model '{}': config.pbtxt has no parameter '{}'; make the repository again with "
        "flux-triton convert",
        name, key);
  return (*found)["string_value"].get<std::string>();
}

int64_t ModelSettings::integer_parameter(const char* key) const {
  const std::string text = parameter(key);
  const bool digits =
      !text.empty() && text.size() < 10 && text.find_first_not_of("0123456789") == text.npos;
  check(digits, ErrorCode::kInvalidArgument,
        "model '{}': parameter '{}' of config.pbtxt is '{}': must be a number", name, key, text);
  return std::stoll(text);
}

ModelSettings read_settings(Model* model) {
  ModelSettings settings;
  const char* name = nullptr;
  check_ok(api().TRITONBACKEND_ModelName(model, &name));
  settings.name = name;
  uint64_t version = 0;
  check_ok(api().TRITONBACKEND_ModelVersion(model, &version));
  int artifact_type = 0;
  const char* location = nullptr;
  check_ok(api().TRITONBACKEND_ModelRepository(model, &artifact_type, &location));
  settings.directory = std::filesystem::path(location) / std::to_string(version);
  Message* message = nullptr;
  check_ok(api().TRITONBACKEND_ModelConfig(model, 1, &message));
  const char* text = nullptr;
  size_t size = 0;
  ServerError* error = api().TRITONSERVER_MessageSerializeToJson(message, &text, &size);
  if (error == nullptr) settings.config = nlohmann::json::parse(std::string(text, size));
  log_and_drop(api().TRITONSERVER_MessageDelete(message), "reading a model's config");
  check_ok(error);
  check_ok(api().TRITONBACKEND_ModelServer(model, &settings.server));
  settings.dtype = parse_compute_dtype(settings.parameter("dtype"));
  settings.device = parse_device(settings.parameter("device"));
  return settings;
}

std::unique_ptr<const ServedModel> ServedModel::load(const ModelSettings& settings) {
  if (settings.name == "bls") return std::make_unique<BlsModel>(settings);
  return load_stage_model(settings);
}

ModelState::ModelState(ModelSettings settings) : settings_(std::move(settings)) {
  settings_.metrics = std::make_shared<Metrics>(settings_.name);
}

std::shared_ptr<const ServedModel> ModelState::on(const Device& device) {
  const std::scoped_lock lock(mutex_);
  std::weak_ptr<const ServedModel>& place = loaded_[to_string(device)];
  std::shared_ptr<const ServedModel> model = place.lock();
  if (model == nullptr) {
    ModelSettings settings = settings_;
    settings.device = device;
    model = ServedModel::load(settings);
    place = model;
  }
  return model;
}

Device device_of(Instance* instance, const ModelSettings& settings) {
  InstanceKind kind = InstanceKind::kCpu;
  check_ok(api().TRITONBACKEND_ModelInstanceKind(instance, &kind));
  if (kind == InstanceKind::kCpu) return settings.device;
  check(kind == InstanceKind::kGpu, ErrorCode::kUnsupported,
        "model '{}': instance_group of config.pbtxt has another kind than KIND_CPU and KIND_GPU",
        settings.name);
  check(!settings.device.is_cpu(), ErrorCode::kUnsupported,
        "model '{}': config.pbtxt has KIND_GPU instances but parameter 'device' is 'cpu'; make the "
        "repository again with flux-triton convert --device cuda, or use KIND_CPU",
        settings.name);
  int32_t id = 0;
  check_ok(api().TRITONBACKEND_ModelInstanceDeviceId(instance, &id));
  return device_of(Place{MemoryType::kGpu, id});
}

InstanceState::InstanceState(Instance* handle, std::shared_ptr<const ServedModel> model)
    : handle_(handle), model_(std::move(model)), data_(model_->make_instance_data()) {
  context();
}

Context& InstanceState::context(size_t index) {
  while (contexts_.size() <= index) {
    contexts_.push_back(std::make_unique<Context>(backend_for(model_->settings().device),
                                                  static_cast<int>(options().threads)));
  }
  return *contexts_[index];
}

void ServedModel::refuse(Instance* instance, Request& request, const std::exception& error,
                         uint64_t start_ns) const noexcept {
  log_and_drop(
      guard([&] {
        const auto* known = dynamic_cast<const Error*>(&error);
        log(LogLevel::kInfo,
            fmt::format("{}: request '{}': {}: {}", settings_.name, request.id(),
                        to_string(known ? known->code() : ErrorCode::kInternal), error.what()));
      }),
      "logging an error");
  request.send_error(instance, error, start_ns);
}

void ServedModel::refuse(Instance* instance, Request& request, const std::exception_ptr& error,
                         uint64_t start_ns) const noexcept {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& known) {
    refuse(instance, request, known, start_ns);
  }
}

void report_batch(Instance* instance, int64_t rows, uint64_t start_ns, uint64_t compute_start_ns,
                  uint64_t compute_end_ns) {
  log_and_drop(api().TRITONBACKEND_ModelInstanceReportBatchStatistics(
                   instance, static_cast<uint64_t>(rows), start_ns, compute_start_ns,
                   compute_end_ns, now_ns()),
               "reporting statistics");
}

}  // namespace flux::triton

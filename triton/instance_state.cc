#include "triton/instance_state.h"

#include "ops/registry.h"
#include "support/error.h"
#include "triton/errors.h"
#include "triton/memory.h"
#include "triton/options.h"

namespace flux::triton {

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
  return device_of(MemoryLocation{MemoryType::kGpu, id});
}

InstanceState::InstanceState(Instance* handle, std::shared_ptr<const ServedModel> model)
    : handle_(handle), model_(std::move(model)), data_(model_->make_instance_data()) {
  context();
  model_->enter(*this);
}

InstanceState::~InstanceState() { model_->leave(*this); }

Context& InstanceState::context(size_t index) {
  while (contexts_.size() <= index) {
    contexts_.push_back(std::make_unique<Context>(backend_for(model_->settings().device),
                                                  static_cast<int>(options().threads),
                                                  model_->shared_memory()));
  }
  return *contexts_[index];
}

void InstanceState::drop_states() noexcept {
  if (data_ != nullptr) data_->drop_states();
  log_and_drop(guard([&] {
                 for (const std::unique_ptr<Context>& ctx : contexts_) release_memory(*ctx);
               }),
               "giving memory back");
}

}  // namespace flux::triton

#include "triton/model_state.h"

#include "triton/model_registry.h"

namespace flux::triton {

std::shared_ptr<const ServedModel> ModelState::on(const Device& device) {
  const std::scoped_lock lock(mutex_);
  std::weak_ptr<const ServedModel>& loaded = loaded_[to_string(device)];
  std::shared_ptr<const ServedModel> model = loaded.lock();
  if (model == nullptr) {
    ModelSettings settings = settings_;
    settings.device = device;
    model = load_model(settings);
    loaded = model;
  }
  return model;
}

}  // namespace flux::triton

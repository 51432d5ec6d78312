#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "triton/served_model.h"

namespace flux::triton {

/// A model of the server. It loads the ServedModel once for each device that has instances, and
/// lets go of it with the last of them.
class ModelState {
 public:
  explicit ModelState(ModelSettings settings) : settings_(std::move(settings)) {}

  const ModelSettings& settings() const { return settings_; }
  /// The model on a device. Throws what load_model() throws. Thread-safe.
  std::shared_ptr<const ServedModel> on(const Device& device);

 private:
  ModelSettings settings_;
  std::mutex mutex_;
  std::map<std::string, std::weak_ptr<const ServedModel>> loaded_;  // by the device's name
};

}  // namespace flux::triton

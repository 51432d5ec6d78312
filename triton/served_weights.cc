#include "triton/served_weights.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "ops/registry.h"
#include "pipeline/weight_bytes.h"
#include "triton/options.h"
#include "triton/stage_model.h"

namespace flux::triton {
namespace {

/// One for each device that has had a model; by its name.
struct Residencies {
  std::mutex mutex;
  std::map<std::string, WeightResidency> by_device;
};
Residencies& residencies() {
  static Residencies instance;
  return instance;
}

WeightResidency::Room room_on(const Device& device) {
  WeightResidency::Room room;
  if (options().weight_memory > 0) room.budget = options().weight_memory;
  room.available = [&backend = backend_for(device)] { return backend.available_bytes(); };
  return room;
}

/// A context for packing weights while a model loads.
Context loading_context(const ModelSettings& settings) {
  Backend& backend = backend_for(settings.device);
  backend.require(settings.precision());
  return Context(backend, static_cast<int>(options().threads));
}

}  // namespace

WeightResidency& weight_residency(const Device& device) {
  Residencies& all = residencies();
  const std::scoped_lock lock(all.mutex);
  const std::string name = to_string(device);
  const auto found = all.by_device.find(name);
  if (found != all.by_device.end()) return found->second;
  return all.by_device.try_emplace(name, room_on(device)).first->second;
}

double seconds_to_load(const std::string& model) {
  Residencies& all = residencies();
  const std::scoped_lock lock(all.mutex);
  std::optional<double> least;
  for (const auto& [device, residency] : all.by_device) {
    const std::optional<double> seconds = residency.seconds_to_load(model);
    if (seconds) least = std::min(least.value_or(*seconds), *seconds);
  }
  return least.value_or(0);
}

WeightSource::WeightSource(const ModelSettings& settings, Component component)
    : settings_(settings),
      weights_(named_weights(component, open_place(component, layout_of(settings).place(component)),
                             true)),
      least_bytes_(least_weight_bytes(component, *weights_.store, settings.precision())) {}

int64_t WeightSource::load(const std::function<int64_t(const Loader&)>& make) const {
  Context ctx = loading_context(settings_);
  const int64_t bytes = make(Loader(ctx, *weights_.store, settings_.precision()));
  settings_.metrics->set(Measure::kWeightBytes, static_cast<double>(bytes));
  settings_.metrics->add(Measure::kWeightLoads, 1);
  return bytes;
}

WeightResidency::Weights WeightSource::weights(std::function<int64_t(const Loader&)> make,
                                               std::function<void()> drop) const {
  return {.model = settings_.name,
          .least_bytes = least_bytes_,
          .load = [this, make = std::move(make)] { return load(make); },
          .drop =
              [this, drop = std::move(drop)] {
                drop();
                settings_.metrics->set(Measure::kWeightBytes, 0);
              }};
}

}  // namespace flux::triton

#pragma once

#include <functional>
#include <memory>
#include <string>

#include "layers/loader.h"
#include "pipeline/weight_layouts.h"
#include "scheduling/weight_residency.h"
#include "triton/model_settings.h"

namespace flux::triton {

/// Whose weights are on a device: one for each device of the process, whatever models are served
/// there. Options::weight_memory is its budget.
WeightResidency& weight_residency(const Device& device);

/// The seconds until the weights of a served model would be on a device, by its name; 0 where they
/// are, and for models that are not of this backend.
double seconds_to_load(const std::string& model);

/// The weights of a served model as WeightResidency takes them: their files stay open, so that what
/// comes back is what left. Each time that they come or leave the model's metrics tell it.
class WeightSource {
 public:
  WeightSource(const ModelSettings& settings, Component component);

  /// The model's tensors as they are stored.
  const TensorStore& store() const { return *weights_.store; }

  /// `make` binds them and returns their bytes.
  WeightResidency::Weights weights(std::function<int64_t(const Loader&)> make,
                                   std::function<void()> drop) const;

 private:
  int64_t load(const std::function<int64_t(const Loader&)>& make) const;

  const ModelSettings& settings_;
  NamedWeights weights_;
  int64_t least_bytes_;
};

/// When a model's weights come first.
enum class FirstLoad { kNow, kOnFirstUse };

/// A served model's layers, of class `Layers`, which are there while WeightResidency says so.
template <typename Layers>
class ServedWeights {
 public:
  /// Loads them, with kNow. `make` makes the layers; `before_drop` lets go of what depends on them.
  /// Throws what loading throws. `settings` must outlive it.
  ServedWeights(const ModelSettings& settings, Component component, FirstLoad first,
                const std::function<std::unique_ptr<const Layers>(const Loader&)>& make,
                const std::function<void()>& before_drop)
      : source_(settings, component),
        member_(weight_residency(settings.device), source_.weights(
                                                       [this, make](const Loader& load) {
                                                         layers_ = make(load);
                                                         return layers_->weight_bytes();
                                                       },
                                                       [this, before_drop] {
                                                         before_drop();
                                                         layers_.reset();
                                                       })) {
    if (first == FirstLoad::kNow) member_.use([] { return false; });
  }

  WeightResidency::Member& member() const { return member_; }
  const TensorStore& store() const { return source_.store(); }
  /// To be called while member() is in use.
  const Layers& operator*() const { return *layers_; }
  const Layers* operator->() const { return layers_.get(); }

 private:
  WeightSource source_;
  std::unique_ptr<const Layers> layers_;
  mutable WeightResidency::Member member_;  // the first to go: nothing is dropped after it
};

}  // namespace flux::triton

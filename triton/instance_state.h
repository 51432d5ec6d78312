#pragma once

#include <memory>
#include <vector>

#include "runtime/context.h"
#include "triton/served_model.h"

namespace flux::triton {

/// One instance of a model: what it does not share with the others.
class InstanceState {
 public:
  /// `handle`: the server's. Makes a first context.
  InstanceState(Instance* handle, std::shared_ptr<const ServedModel> model);
  ~InstanceState();
  InstanceState(const InstanceState&) = delete;
  InstanceState& operator=(const InstanceState&) = delete;

  Instance* handle() const { return handle_; }
  const ServedModel& model() const { return *model_; }
  /// The context that the instance computes with. Threads that compute at once use one each.
  /// Contexts are made when they are first asked for, from one thread at a time, and kept.
  Context& context(size_t index = 0);
  /// The state that ServedModel::make_instance_data() made; may be null.
  InstanceData* data() { return data_.get(); }
  /// Lets go of what depends on the model's weights, and of scratch memory. The instance must not
  /// compute meanwhile.
  void drop_states() noexcept;

 private:
  Instance* handle_;
  std::shared_ptr<const ServedModel> model_;
  std::vector<std::unique_ptr<Context>> contexts_;
  std::unique_ptr<InstanceData> data_;
};

/// The device that an instance computes on: the GPU that the server gives it, or with KIND_CPU the
/// device of config.pbtxt (`bls` has nothing to compute, but its latents are there). Throws
/// kUnsupported where the two disagree.
Device device_of(Instance* instance, const ModelSettings& settings);

}  // namespace flux::triton

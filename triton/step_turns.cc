#include "triton/step_turns.h"

#include <map>
#include <mutex>

#include "triton/options.h"

namespace flux::triton {
namespace {

/// The GPUs with transformers, and how many there are on each.
struct Gpus {
  std::mutex mutex;
  std::map<int, int> transformers;
  int64_t useful_tokens = 0;  // the most of any
};
Gpus& gpus() {
  static Gpus instance;
  return instance;
}

StepScheduler::Settings settings_of(int lanes) {
  return {.policy = options().policy,
          .bound = static_cast<double>(options().max_slowdown),
          .lanes = lanes};
}

}  // namespace

StepScheduler& step_scheduler(const Device& device) {
  static StepScheduler cpu(settings_of(static_cast<int>(options().computations)));
  static StepScheduler gpu(settings_of(1));
  return device.is_cpu() ? cpu : gpu;
}

StepDevice::StepDevice(const Device& device, int64_t useful_tokens) : device_(device) {
  if (device_.is_cpu()) return;
  Gpus& all = gpus();
  const std::scoped_lock lock(all.mutex);
  ++all.transformers[device_.index];
  all.useful_tokens = std::max(all.useful_tokens, useful_tokens);
  step_scheduler(device_).set_lanes(static_cast<int>(all.transformers.size()), all.useful_tokens);
}

StepDevice::~StepDevice() {
  if (device_.is_cpu()) return;
  Gpus& all = gpus();
  const std::scoped_lock lock(all.mutex);
  if (--all.transformers[device_.index] == 0) all.transformers.erase(device_.index);
  const int lanes = std::max(1, static_cast<int>(all.transformers.size()));
  step_scheduler(device_).set_lanes(lanes, all.useful_tokens);
}

}  // namespace flux::triton

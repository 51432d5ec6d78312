#pragma once

#include "scheduling/step_scheduler.h"
#include "tensor/device.h"

namespace flux::triton {

/// The scheduler of the steps on the kind of device that `device` is: the process has one for its
/// CPU and one for its GPUs, whatever models are served there. Its policy is options()'.
StepScheduler& step_scheduler(const Device& device);

/// While it lives, a transformer computes steps on a device: they are scheduled as many at a time
/// as there are such GPUs, or as options() has it for the CPU.
class StepDevice {
 public:
  /// `useful_tokens`: of ops.h.
  StepDevice(const Device& device, int64_t useful_tokens);
  ~StepDevice();
  StepDevice(const StepDevice&) = delete;
  StepDevice& operator=(const StepDevice&) = delete;

 private:
  Device device_;
};

}  // namespace flux::triton

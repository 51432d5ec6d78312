#pragma once

#include <cstdint>

#include "pipeline/request.h"
#include "scheduling/step_policy.h"
#include "triton/c_api.h"

namespace flux::triton {

/// The settings of --backend-config=flux,NAME=VALUE, for all models of the process.
struct Options {
  int64_t computations = 1;  // stages that compute on the CPU at once
  int64_t threads = 0;       // CPU threads of each; default: the cores, divided among them
  StepPolicy policy = StepPolicy::kLeastWork;
  int64_t max_slowdown = 8;   // the bound of goes_before()
  int64_t weight_memory = 0;  // bytes of weights on each device, at most; 0: what the device has
  int64_t lora_memory = int64_t{2} << 30;  // bytes of adapters of all models, at most
  // Limits of a request; config.pbtxt may set lower ones.
  int64_t max_side = 8192;  // pixels
  int64_t max_steps = RequestLimits{}.max_steps;
  int64_t max_images = RequestLimits{}.max_images_per_prompt;  // for each prompt
};

/// Reads the backend's configuration. Throws kInvalidArgument for a value that is not allowed.
void read_options(ServerBackend* backend);
const Options& options();

/// A stage's turn on the CPU: as many stages as Options::computations compute at once, the others
/// wait. More of them would only compete for the cores.
class CpuTurn {
 public:
  CpuTurn();
  ~CpuTurn();
  CpuTurn(const CpuTurn&) = delete;
  CpuTurn& operator=(const CpuTurn&) = delete;
};

}  // namespace flux::triton

#pragma once

#include <cstdint>
#include <semaphore>

#include "pipeline/request.h"
#include "triton/c_api.h"

namespace flux::triton {

/// What --backend-config=flux,NAME=VALUE says, for all models of the process.
struct Options {
  int64_t computations = 1;  // stages that compute on the CPU at once
  int64_t threads = 0;       // CPU threads of each; default: the cores, divided among them
  // What a request may ask for at most; config.pbtxt may say less.
  int64_t max_side = 8192;  // pixels
  int64_t max_steps = RequestLimits{}.max_steps;
  int64_t max_images = RequestLimits{}.max_images_per_prompt;  // for each prompt
};

/// Reads the backend's configuration. Throws kInvalidArgument for a value that is not allowed.
void read_options(ServerBackend* backend);
const Options& options();

/// Held while a stage computes on the CPU: as many as `computations` at once. More would only fight
/// for the cores.
class CpuTurn {
 public:
  CpuTurn();
  ~CpuTurn();
  CpuTurn(const CpuTurn&) = delete;
  CpuTurn& operator=(const CpuTurn&) = delete;

 private:
  std::counting_semaphore<>& turns_;
};

}  // namespace flux::triton

#pragma once

#include <mutex>

#include "triton/c_api.h"

namespace flux::triton {

/// What --backend-config=flux,NAME=VALUE says, for all models of the process.
struct Options {
  int threads = 1;  // CPU threads of a computation; default: one for each physical core
};

/// Reads the backend's configuration. Throws kInvalidArgument for a value that is not allowed.
void read_options(ServerBackend* backend);
const Options& options();

/// Held while a stage computes on the CPU. Each computation uses all threads, so that two at once
/// would only fight for the cores; the models of an image's stages share the machine in turn.
std::mutex& cpu_gate();

}  // namespace flux::triton

#pragma once

#include <memory>

#include "triton/served_model.h"

namespace flux::triton {

/// Loads the model of the kind that `settings` names. Throws what loading throws, which names file,
/// tensor, found and expected, and kInvalidArgument for a config.pbtxt that cannot work.
std::unique_ptr<const ServedModel> load_model(const ModelSettings& settings);

}  // namespace flux::triton

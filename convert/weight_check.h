#pragma once

#include "pipeline/checkpoint.h"

namespace flux {

/// Checks that every model finds all its tensors, with the right shapes, and that the tokenizers
/// belong to their encoders: what a server would find out while it loads. Large weights are not
/// read. Throws as loading does, naming file and tensor; kUnsupported for a dtype that the device
/// does not compute in.
void check_weights(const Checkpoint& checkpoint, DType dtype, const Device& device);

}  // namespace flux

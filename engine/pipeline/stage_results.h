#pragma once

#include <string_view>

#include "support/error.h"
#include "tensor/tensor.h"

namespace flux {

/// Throws `code` for an output of a stage that holds values that are not finite, and would look
/// like success. The error has no place in the source, because it is no bug: weights are damaged,
/// or inputs too large. `stage`: its name, as the caller has it. Values on a GPU are not looked at.
void check_result(std::string_view stage, std::string_view output, const ConstTensor& values,
                  ErrorCode code = ErrorCode::kInternal);

}  // namespace flux

#pragma once

#include <string_view>

#include "ops/kernels.h"

namespace flux {

/// The backend of `device`, made on first use and kept for the life of the process. Throws
/// kUnsupported for a device that this build cannot use.
Backend& backend_for(const Device& device);

/// Parses "auto", "cpu", "cuda" (the first GPU) or "cuda:N". "auto" is the first GPU where there is
/// one that can be used, else the CPU. Throws kInvalidArgument for another text, kUnsupported for a
/// device that cannot be used here, saying why.
Device parse_device(std::string_view text);

}  // namespace flux

#pragma once

#include <string_view>

#include "ops/kernels.h"

namespace flux {

/// The backend of `device`, made on first use and kept for the life of the process. Throws
/// kUnsupported for a device that this build cannot use.
Backend& backend_for(const Device& device);

/// Whose device a text names: one that is to be used here and now, or one of the machine that a
/// repository is made for.
enum class Machine { kThis, kAnother };

/// Parses "auto", "cpu", "cuda" (the first GPU) or "cuda:N". "auto" is the first GPU where there is
/// one that can be used here, else the CPU. Throws kInvalidArgument for another text; for this
/// machine kUnsupported for a device that cannot be used, saying why.
Device parse_device(std::string_view text, Machine machine = Machine::kThis);

}  // namespace flux

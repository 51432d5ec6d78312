#pragma once

#include <filesystem>

#include "adapters/adapter.h"
#include "weights/safetensors.h"

namespace flux {

/// The most tensors that an adapter's file may have, and bytes of its header. One that changes
/// every linear of FLUX.1 and its text encoders, in six tensors each, has 7000.
inline constexpr size_t kMaxAdapterTensors = 32768;
inline constexpr uint64_t kMaxAdapterHeaderBytes = uint64_t{16} << 20;

/// Reads what an adapter's file changes, in any dialect (docs/adapters.md), or several. Of the
/// tensors only the alphas are read. Throws kNotFound when the file cannot be opened, and
/// kInvalidArgument in one line for a file that is damaged or too large, tensors that do not fit
/// together, two changes of the same rows, and a file of which nothing is known, which says what it
/// seems to be.
Adapter open_adapter(const std::filesystem::path& file);
/// The same of a file that is open; its path is for messages.
Adapter read_adapter(const SafetensorsFile& file);

/// Whether a file's names are those of an adapter, of FLUX.1 or not.
bool is_adapter(const WeightFile& file);

}  // namespace flux

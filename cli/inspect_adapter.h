#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "adapters/adapter.h"

namespace flux::cli {

/// Whether a file is an adapter by the names of its tensors; not for one that cannot be read.
bool is_adapter_file(const std::filesystem::path& file);

/// What `inspect` says of an adapter: dialects, base, modules, ranks and scales, unused tensors.
nlohmann::json adapter_json(const Adapter& adapter);
std::string adapter_text(const Adapter& adapter);

}  // namespace flux::cli

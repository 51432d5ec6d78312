#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

namespace flux {

/// Reads a JSON file of at most 64 MiB that nests at most 64 levels. Throws kNotFound when it is
/// missing and kInvalidArgument, naming the file and place, when it is not such JSON.
nlohmann::json read_json_file(const std::filesystem::path& file);

}  // namespace flux

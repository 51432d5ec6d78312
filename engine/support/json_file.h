#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

namespace flux {

/// Reads a JSON file of at most 64 MiB that nests at most 64 levels. Throws kNotFound when it is
/// missing and kInvalidArgument, naming the file and place, when it is not such JSON.
nlohmann::json read_json_file(const std::filesystem::path& file);

/// A value as an error quotes it: its JSON, also where a text is not UTF-8.
inline std::string quoted(const nlohmann::json& value) {
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace flux

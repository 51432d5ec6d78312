#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace flux {

/// Why `text` is not JSON, where it is wrong: "line 3, column 5: unexpected '}'".
std::string json_problem(std::string_view text, const nlohmann::json::exception& error);

/// Reads a JSON file of at most 64 MiB that nests at most 64 levels. Throws kNotFound when it is
/// missing and kInvalidArgument, naming the file and place, when it is not such JSON.
nlohmann::json read_json_file(const std::filesystem::path& file);

/// A value as an error quotes it: an excerpt of its JSON, also where a text is not UTF-8.
std::string quoted(const nlohmann::json& value);

}  // namespace flux

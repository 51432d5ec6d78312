#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace flux {

/// What is to be known of a text of JSON before it is parsed. (nlohmann::json's parser with a
/// callback tells it, too, but takes time that grows with the square of the number of objects.)
struct JsonOutline {
  int depth = 0;                         // levels of arrays and objects in one another
  std::optional<std::string> duplicate;  // a name that the outermost object has twice
};

/// Reads a text until it ends, is no JSON, nests deeper than `max_depth` or has a duplicate.
JsonOutline outline_of(std::string_view text, int max_depth);

}  // namespace flux

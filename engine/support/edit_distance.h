#pragma once

#include <cstddef>
#include <string_view>

namespace flux {

/// Levenshtein's distance: the insertions, deletions and replacements that make `a` of `b`.
size_t edit_distance(std::string_view a, std::string_view b);

}  // namespace flux

#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>

namespace flux::unicode {

/// Code points first to last, both included.
struct Range {
  char32_t first;
  char32_t last;
};

/// Returns whether one of the ranges contains `c`. They must be sorted and disjoint.
template <size_t n>
bool contains(const Range (&table)[n], char32_t c) {
  const Range* it =
      std::upper_bound(std::begin(table), std::end(table), c,
                       [](char32_t value, const Range& r) { return value < r.first; });
  return it != std::begin(table) && c <= std::prev(it)->last;
}

}  // namespace flux::unicode

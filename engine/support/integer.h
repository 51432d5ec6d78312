#pragma once

#include <type_traits>

/// Whole-number arithmetic of sizes, none of them negative.
namespace flux {

/// Parts of `part` that `size` has, the last of which need not be full.
template <typename Integer>
constexpr Integer ceil_div(Integer size, std::type_identity_t<Integer> part) {
  return (size + part - 1) / part;
}

/// The least multiple of `multiple` that is not below `size`.
template <typename Integer>
constexpr Integer round_up(Integer size, std::type_identity_t<Integer> multiple) {
  return ceil_div(size, multiple) * multiple;
}

}  // namespace flux

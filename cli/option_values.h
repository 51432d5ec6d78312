#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <limits>

/// What the programs of this project have in common in reading their options.
namespace flux::cli {

/// Validates options that take an integer: decimal, and from `low` to `high`. (CLI11 alone reads
/// 010 as 8 and cuts what is too large.)
CLI::Validator whole_number(int64_t low = std::numeric_limits<int64_t>::min(),
                            int64_t high = std::numeric_limits<int64_t>::max());
/// Validates options that take a number: decimal. (CLI11 alone reads 0x10 as 16.)
CLI::Validator decimal_number();

}  // namespace flux::cli

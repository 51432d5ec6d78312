#pragma once

#include <filesystem>
#include <optional>

namespace flux {

/// How many CPUs' worth of time this process may use, as its control group or one above it says:
/// the limit of a container. Nothing where there is no limit. Both versions of control groups are
/// read. `root`: where /proc and /sys are.
std::optional<double> cpu_quota(const std::filesystem::path& root = "/");

}  // namespace flux

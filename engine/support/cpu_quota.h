#pragma once

#include <filesystem>
#include <optional>

namespace flux {

/// Number of CPUs whose time this process may use, according to its control group and those above
/// it: the limit of a container. Empty where there is no limit. Both versions of control groups are
/// read. `root` is the directory that holds /proc and /sys.
std::optional<double> cpu_quota(const std::filesystem::path& root = "/");

}  // namespace flux

#include "support/cpu_quota.h"

#include <algorithm>
#include <fstream>
#include <string>

namespace flux {
namespace {

namespace fs = std::filesystem;

/// The smaller of two limits that may be absent.
std::optional<double> tighter(std::optional<double> a, std::optional<double> b) {
  if (!a || !b) return a ? a : b;
  return std::min(*a, *b);
}

std::optional<double> as_limit(double quota, double period) {
  if (!(quota > 0 && period > 0)) return std::nullopt;
  return quota / period;
}

/// Reads cpu.max: "400000 100000", or "max 100000" for no limit.
std::optional<double> read_version_2(const fs::path& group) {
  std::ifstream file(group / "cpu.max");
  double quota = 0;
  double period = 0;
  if (!(file >> quota >> period)) return std::nullopt;
  return as_limit(quota, period);
}

/// Reads the two files of version 1; a quota of -1 is no limit.
std::optional<double> read_version_1(const fs::path& group) {
  std::ifstream quota_file(group / "cpu.cfs_quota_us");
  std::ifstream period_file(group / "cpu.cfs_period_us");
  double quota = 0;
  double period = 0;
  if (!(quota_file >> quota) || !(period_file >> period)) return std::nullopt;
  return as_limit(quota, period);
}

/// The tightest limit of a group and those above it. Inside a container the group's path often
/// does not exist, because its own group is mounted as the root.
template <typename Read>
std::optional<double> walk(const fs::path& mount, fs::path group, Read&& read) {
  std::optional<double> limit = read(mount);
  for (; group.has_relative_path(); group = group.parent_path()) {
    limit = tighter(limit, read(mount / group.relative_path()));
  }
  return limit;
}

}  // namespace

std::optional<double> cpu_quota(const fs::path& root) {
  const fs::path mount = root / "sys/fs/cgroup";
  std::optional<double> limit;
  std::ifstream groups(root / "proc/self/cgroup");
  // Lines of "ID:CONTROLLERS:/PATH"; version 2 has no controllers.
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = first == line.npos ? first : line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const fs::path group = line.substr(second + 1);
    if (controllers == ",,") limit = tighter(limit, walk(mount, group, read_version_2));
    if (controllers.find(",cpu,") != controllers.npos) {
      for (const char* name : {"cpu", "cpu,cpuacct"}) {
        limit = tighter(limit, walk(mount / name, group, read_version_1));
      }
    }
  }
  return limit;
}

}  // namespace flux

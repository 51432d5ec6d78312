#pragma once

#include <string>
#include <string_view>

namespace flux {

/// A place where tensors live and ops run.
struct Device {
  enum class Kind { kCpu, kCuda };

  Kind kind = Kind::kCpu;
  int index = 0;

  bool is_cpu() const { return kind == Kind::kCpu; }
  friend bool operator==(const Device&, const Device&) = default;
};

/// "cpu" or "cuda:0".
std::string to_string(const Device& device);

/// Parses "auto", "cpu", "cuda" or "cuda:N". "auto" is the best device this build can use.
/// Throws kInvalidArgument for another text, kUnsupported for a device this build cannot use.
Device parse_device(std::string_view text);

}  // namespace flux

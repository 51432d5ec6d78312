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

/// Parses "auto", "cpu", "cuda" (the first GPU) or "cuda:N". "auto" is the first GPU where there is
/// one that can be used, else the CPU. Throws kInvalidArgument for another text, kUnsupported for a
/// device that cannot be used here, saying why.
Device parse_device(std::string_view text);

}  // namespace flux

#include "device/device.h"

#include "support/error.h"

namespace flux {

std::string to_string(const Device& device) {
  return device.is_cpu() ? "cpu" : fmt::format("cuda:{}", device.index);
}

Device parse_device(std::string_view text) {
  if (text == "auto" || text == "cpu") return Device{};
  const bool cuda = text == "cuda" || (text.starts_with("cuda:") && text.size() > 5 &&
                                       text.find_first_not_of("0123456789", 5) == text.npos);
  check(cuda, ErrorCode::kInvalidArgument,
        "device '{}' is not known: use auto, cpu, cuda or cuda:N", text);
  fail(ErrorCode::kUnsupported, "device '{}': this build computes on the CPU only; use cpu", text);
}

}  // namespace flux

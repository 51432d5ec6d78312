#include "tensor/device.h"

#include <fmt/format.h>

namespace flux {

std::string to_string(const Device& device) {
  return device.is_cpu() ? "cpu" : fmt::format("cuda:{}", device.index);
}

}  // namespace flux

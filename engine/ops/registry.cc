#include "ops/registry.h"

#include <algorithm>
#include <charconv>

#include "ops/cpu/cpu_backend.h"
#include "ops/cuda_library.h"
#include "support/error.h"
#include "support/utf8.h"

namespace flux {

Backend& backend_for(const Device& device) {
  if (!device.is_cpu()) return cuda_library().backend(device.index);
  static cpu::CpuBackend backend;
  return backend;
}

namespace {

/// GPUs of one machine at most: a larger index is a slip of the keyboard.
constexpr int kMostGpus = 64;

}  // namespace

Device parse_device(std::string_view text, Machine machine) {
  if (text == "cpu") return Device{};
  if (text == "auto") return has_cuda() ? Device{Device::Kind::kCuda, 0} : Device{};
  const bool cuda = text == "cuda" || (text.starts_with("cuda:") && text.size() > 5 &&
                                       text.find_first_not_of("0123456789", 5) == text.npos);
  check(cuda, ErrorCode::kInvalidArgument,
        "device '{}' is not known: use auto, cpu, cuda or cuda:N", excerpt(text));
  int index = 0;
  const std::string_view digits =
      text.substr(std::min(text.size(), std::string_view("cuda:").size()));
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), index);
  int devices = kMostGpus;
  try {
    if (machine == Machine::kThis) devices = cuda_library().devices;
  } catch (const Error& error) {
    fail(error.code(), "device '{}': {}", text, error.what());
  }
  check(parsed.ec != std::errc::result_out_of_range && index < devices, ErrorCode::kUnsupported,
        "device '{}': {} {} GPU{}; use cuda:0{}", text,
        machine == Machine::kThis ? "this machine has" : "a machine has at most", devices,
        devices == 1 ? "" : "s", devices == 1 ? "" : fmt::format(" to cuda:{}", devices - 1));
  return Device{Device::Kind::kCuda, index};
}

}  // namespace flux

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "runtime/device_runtime.h"

namespace flux {

/// A device of host memory that is as small as a test wants.
class FakeDevice final : public DeviceRuntime {
 public:
  Device device() const override { return {}; }
  std::shared_ptr<std::byte> allocate(size_t bytes) const override {
    if (held_ + bytes > limit_) return nullptr;
    held_ += bytes;
    auto* memory = static_cast<std::byte*>(std::malloc(std::max<size_t>(bytes, 1)));
    return {memory, [this, bytes](std::byte* address) {
              held_ -= bytes;
              std::free(address);
            }};
  }
  void limit_memory(int64_t bytes) override { limit_ = static_cast<size_t>(bytes); }
  int64_t available_bytes() const override {
    return limit_ > held_ ? static_cast<int64_t>(limit_ - held_) : 0;
  }
  void copy(Context&, const ConstTensor& x, const Tensor& out) override {
    std::memcpy(out.raw(), x.raw(), static_cast<size_t>(x.bytes()));
  }

  size_t held() const { return held_; }

 private:
  size_t limit_ = size_t{1} << 40;
  mutable std::atomic<size_t> held_ = 0;
};

}  // namespace flux

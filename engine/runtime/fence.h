#pragma once

namespace flux {

/// A point in what a context has asked its device for. Made by make_fence(); it may outlive the
/// context.
class Fence {
 public:
  Fence() = default;
  virtual ~Fence() = default;
  Fence(const Fence&) = delete;
  Fence& operator=(const Fence&) = delete;

  /// Returns when the device has come to it. Throws kInternal when the device failed. Thread-safe.
  virtual void wait() const = 0;
};

}  // namespace flux

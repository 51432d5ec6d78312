#include <algorithm>
#include <cmath>
#include <unordered_map>
#include <vector>

#include "ops/cpu/cpu_backend.h"

namespace flux::cpu {
namespace {

/// Caches cos and sin of every frequency of one axis by position: an image repeats few positions
/// often.
class AxisAngles {
 public:
  AxisAngles(int64_t dim, double theta) : half_(dim / 2) {
    for (int64_t i = 0; i < half_; ++i) {
      const double exponent = static_cast<double>(2 * i) / static_cast<double>(dim);
      frequencies_.push_back(1.0 / std::pow(theta, exponent));
    }
  }

  int64_t half() const { return half_; }

  /// Returns half() cosines followed by half() sines.
  const float* at(float position) {
    std::vector<float>& angles = angles_[position];
    if (angles.empty()) {
      angles.resize(static_cast<size_t>(2 * half_));
      for (size_t i = 0; i < static_cast<size_t>(half_); ++i) {
        const double angle = static_cast<double>(position) * frequencies_[i];
        angles[i] = static_cast<float>(std::cos(angle));
        angles[static_cast<size_t>(half_) + i] = static_cast<float>(std::sin(angle));
      }
    }
    return angles.data();
  }

 private:
  int64_t half_;
  std::vector<double> frequencies_;
  std::unordered_map<float, std::vector<float>> angles_;
};

}  // namespace

void CpuBackend::rope_angles(Context&, const ConstTensor& positions, const RopeAxes& rope,
                             const Tensor& cos_out, const Tensor& sin_out) {
  std::vector<AxisAngles> axes;
  for (const int64_t dim : rope.dims) axes.emplace_back(dim, rope.theta);
  float* cos = cos_out.data<float>();
  float* sin = sin_out.data<float>();
  for (int64_t token = 0; token < positions.size(0); ++token) {
    const float* position = positions[token].data<float>();
    for (size_t axis = 0; axis < axes.size(); ++axis) {
      const int64_t half = axes[axis].half();
      const float* angles = axes[axis].at(position[axis]);
      cos = std::copy_n(angles, half, cos);
      sin = std::copy_n(angles + half, half, sin);
    }
  }
}

}  // namespace flux::cpu

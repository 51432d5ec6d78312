#include "layers/rope.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>

namespace flux {
namespace {

constexpr double kTheta = 10000.0;

/// cos and sin of every frequency of one axis, by position: images repeat few positions often.
class AxisAngles {
 public:
  explicit AxisAngles(int64_t dim) : half_(dim / 2) {
    for (int64_t i = 0; i < half_; ++i) {
      const double exponent = static_cast<double>(2 * i) / static_cast<double>(dim);
      frequencies_.push_back(1.0 / std::pow(kTheta, exponent));
    }
  }

  int64_t half() const { return half_; }

  /// half() cosines followed by half() sines.
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

RopeTable make_rope_table(Context& ctx, const std::vector<Tensor>& ids,
                          const std::vector<int64_t>& axes_dims) {
  std::vector<AxisAngles> axes;
  int64_t half_dim = 0;
  for (const int64_t dim : axes_dims) {
    axes.emplace_back(dim);
    half_dim += dim / 2;
  }
  int64_t tokens = 0;
  for (const Tensor& part : ids) tokens += part.size(0);
  RopeTable table{ctx.workspace().allocate({tokens, half_dim}, DType::kF32),
                  ctx.workspace().allocate({tokens, half_dim}, DType::kF32)};
  float* cos = table.cos.data<float>();
  float* sin = table.sin.data<float>();
  for (const Tensor& part : ids) {
    for (int64_t token = 0; token < part.size(0); ++token) {
      const float* positions = part[token].data<float>();
      for (size_t axis = 0; axis < axes.size(); ++axis) {
        const int64_t half = axes[axis].half();
        const float* angles = axes[axis].at(positions[axis]);
        cos = std::copy_n(angles, half, cos);
        sin = std::copy_n(angles + half, half, sin);
      }
    }
  }
  return table;
}

}  // namespace flux

#include <algorithm>
#include <cmath>

#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/rows.h"

namespace flux::cpu {

void CpuBackend::euler_step(Context&, const Tensor& latents, const EulerStep& step) {
  dispatch(latents.dtype(), [&]<typename T>() {
    const auto rounded = [](float value) { return static_cast<float>(T(value)); };
    const float delta = rounded(step.delta);
    auto* values = latents.data<T>();
    const auto* positive = step.prediction.data<T>();
    const T* negative = step.negative.defined() ? step.negative.data<T>() : nullptr;
    for (int64_t i = 0; i < latents.numel(); ++i) {
      auto noise = static_cast<float>(positive[i]);
      if (negative != nullptr) {
        const auto base = static_cast<float>(negative[i]);
        noise = rounded(base + rounded(step.cfg_scale * rounded(noise - base)));
      }
      values[i] = T(static_cast<float>(values[i]) + rounded(delta * noise));
    }
  });
}

void CpuBackend::scale_noise(Context&, const Tensor& latents, const NoisedImage& noised) {
  dispatch(latents.dtype(), [&]<typename T>() {
    const auto rounded = [](float value) { return static_cast<float>(T(value)); };
    const float sigma = rounded(noised.sigma);
    const float rest = rounded(1.0f - sigma);
    auto* values = latents.data<T>();
    const auto* image = noised.image.data<T>();
    const auto* noise = noised.noise.data<T>();
    const T* mask = noised.mask.defined() ? noised.mask.data<T>() : nullptr;
    for (int64_t i = 0; i < latents.numel(); ++i) {
      if (mask != nullptr && static_cast<float>(mask[i]) != 0.0f) continue;
      values[i] = T(rounded(sigma * static_cast<float>(noise[i])) +
                    rounded(rest * static_cast<float>(image[i])));
    }
  });
}

void CpuBackend::unpack_tokens(Context&, const ConstTensor& packed, float divisor, float shift,
                               const Tensor& out) {
  const int64_t channels = out.size(0);
  const int64_t columns = out.size(2) / 2;  // of tokens
  dispatch(out.dtype(), [&]<typename T>() {
    auto* to = out.data<T>();
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t y = 0; y < out.size(1); ++y) {
        for (int64_t x = 0; x < out.size(2); ++x) {
          const int64_t token = y / 2 * columns + x / 2;
          const int64_t at = (token * channels + c) * 4 + y % 2 * 2 + x % 2;
          const auto scaled = T(static_cast<float>(packed.data<T>()[at]) / divisor);
          *to++ = T(static_cast<float>(scaled) + shift);
        }
      }
    }
  });
}

void CpuBackend::to_bytes(Context&, const ConstTensor& x, const Tensor& out) {
  const int64_t plane = x.size(1) * x.size(2);
  const auto* values = x.data<float>();
  auto* target = out.data<uint8_t>();
  for (int64_t i = 0; i < plane; ++i) {
    for (int64_t c = 0; c < 3; ++c) {
      const float unit = values[c * plane + i] * 0.5f + 0.5f;
      const float clamped = unit > 0.0f ? std::min(unit, 1.0f) : 0.0f;  // NaN too
      *target++ = static_cast<uint8_t>(std::nearbyint(clamped * 255.0f));
    }
  }
}

}  // namespace flux::cpu

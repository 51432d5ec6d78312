#include <algorithm>
#include <cmath>

#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/isa.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/rows.h"
#include "support/integer.h"

namespace flux::cpu {
namespace {

const float* data_or_null(const ConstTensor& tensor) {
  return tensor.defined() ? tensor.data<float>() : nullptr;
}

template <typename T>
void rms_norm_rope_rows(Context& ctx, const Tensor& x, const ConstTensor& weight, float eps,
                        const RopeTable& rope) {
  const auto kernel = kernels().rows<T>().rms_norm_rope;
  const int64_t heads = x.size(1);
  const int64_t n = x.size(2);
  const Workspace::Scope scope(ctx.workspace());
  const Tensor angles = ctx.workspace().allocate({ctx.threads(), 2, n}, DType::kF32);
  for_row_tiles(ctx, x.size(0), heads * n, [&](int64_t begin, int64_t end, int thread) {
    float* cos = angles[thread].data<float>();
    float* sin = cos + n;
    for (int64_t token = begin; token < end; ++token) {
      const float* token_cos = row<float>(rope.cos, token);
      const float* token_sin = row<float>(rope.sin, token);
      for (int64_t i = 0; i < n / 2; ++i) {
        cos[2 * i] = cos[2 * i + 1] = token_cos[i];
        sin[2 * i] = -token_sin[i];
        sin[2 * i + 1] = token_sin[i];
      }
      kernel(row<T>(x, token), heads, x.stride(1), n, weight.data<float>(), eps, cos, sin);
    }
  });
}

/// Number of pixels in a chunk: about 64 KiB, so that its second reading comes from the cache.
int64_t pixels_in_chunk(int64_t channels, size_t element_size) {
  return std::max<int64_t>(1, 65536 / (channels * static_cast<int64_t>(element_size)));
}

/// Turns the moments of all chunks into the affine map of each channel. Chunks are combined in
/// their order (Chan, Golub and LeVeque's update), in double.
void combine_moments(const Moments* moments, int64_t chunks, int64_t pixels, int64_t chunk_pixels,
                     const GroupNormParams& params, int64_t channels, const GroupAffine& affine) {
  const int64_t size = channels / params.groups;
  for (int64_t group = 0; group < params.groups; ++group) {
    double count = 0.0;
    double mean = 0.0;
    double squares = 0.0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const Moments& part = moments[chunk * params.groups + group];
      const int64_t part_pixels = std::min(chunk_pixels, pixels - chunk * chunk_pixels);
      const auto part_count = static_cast<double>(part_pixels * size);
      const double delta = static_cast<double>(part.mean) - mean;
      const double total = count + part_count;
      mean += delta * part_count / total;
      squares += static_cast<double>(part.squares) + delta * delta * count * part_count / total;
      count = total;
    }
    const double factor = 1.0 / std::sqrt(squares / count + static_cast<double>(params.eps));
    for (int64_t c = group * size; c < (group + 1) * size; ++c) {
      affine.mean[c] = static_cast<float>(mean);
      affine.scale[c] =
          static_cast<float>(static_cast<double>(params.weight.data<float>()[c]) * factor);
      affine.shift[c] = params.bias.data<float>()[c];
    }
  }
}

template <typename T>
void group_norm_image(Context& ctx, const ConstTensor& x, const GroupNormParams& params,
                      const Tensor& out) {
  const RowKernels<T>& rows = kernels().rows<T>();
  const int64_t channels = x.size(-1);
  const int64_t pixels = channels == 0 ? 0 : x.numel() / channels;
  if (pixels == 0) return;
  const int64_t chunk_pixels = pixels_in_chunk(channels, sizeof(T));
  const int64_t chunks = ceil_div(pixels, chunk_pixels);
  const Workspace::Scope scope(ctx.workspace());
  const Tensor moments = ctx.workspace().allocate({chunks, params.groups, 2}, DType::kF32);
  const Tensor sums = ctx.workspace().allocate({ctx.threads(), channels}, DType::kF32);
  const Tensor parameters = ctx.workspace().allocate({3, channels}, DType::kF32);
  auto* chunk_moments = static_cast<Moments*>(moments.raw());
  const GroupAffine affine = {parameters[0].data<float>(), parameters[1].data<float>(),
                              parameters[2].data<float>()};

  parallel_for(ctx.threads(), chunks, [&](int64_t chunk, int thread) {
    const int64_t first = chunk * chunk_pixels;
    rows.group_moments(x.data<T>() + first * channels, std::min(chunk_pixels, pixels - first),
                       channels, params.groups, sums[thread].data<float>(),
                       chunk_moments + chunk * params.groups);
  });
  combine_moments(chunk_moments, chunks, pixels, chunk_pixels, params, channels, affine);
  parallel_for(ctx.threads(), chunks, [&](int64_t chunk) {
    const int64_t first = chunk * chunk_pixels;
    rows.group_apply(x.data<T>() + first * channels, std::min(chunk_pixels, pixels - first),
                     channels, affine, params.activation, out.data<T>() + first * channels);
  });
}

void layer_norm_part(Context& ctx, const ConstTensor& x, const LayerNormParams& params,
                     const Tensor& out) {
  const LayerNormRow row_params = {data_or_null(params.weight), data_or_null(params.bias),
                                   data_or_null(params.scale), data_or_null(params.shift),
                                   params.eps};
  dispatch(x.dtype(), [&]<typename T>() {
    const auto kernel = kernels().rows<T>().layer_norm;
    for_row_tiles(ctx, x.size(0), x.size(1), [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        kernel(row<T>(x, i), row_params, x.size(1), row<T>(out, i));
      }
    });
  });
}

}  // namespace

void CpuBackend::layer_norm(Context& ctx, std::span<const LayerNormPart> parts) {
  for (const auto& part : parts) layer_norm_part(ctx, part.x, part.params, part.out);
}

void CpuBackend::rms_norm(Context& ctx, const ConstTensor& x, const ConstTensor& weight, float eps,
                          const Tensor& out) {
  dispatch(x.dtype(), [&]<typename T>() {
    const auto kernel = kernels().rows<T>().rms_norm;
    for_row_tiles(ctx, x.size(0), x.size(1), [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        kernel(row<T>(x, i), weight.data<float>(), eps, x.size(1), row<T>(out, i));
      }
    });
  });
}

void CpuBackend::rms_norm_rope(Context& ctx, const Tensor& x, const ConstTensor& weight, float eps,
                               const RopeTable& rope) {
  dispatch(x.dtype(), [&]<typename T>() { rms_norm_rope_rows<T>(ctx, x, weight, eps, rope); });
}

void CpuBackend::group_norm(Context& ctx, const ConstTensor& x, const GroupNormParams& params,
                            const Tensor& out) {
  dispatch(x.dtype(), [&]<typename T>() { group_norm_image<T>(ctx, x, params, out); });
}

}  // namespace flux::cpu

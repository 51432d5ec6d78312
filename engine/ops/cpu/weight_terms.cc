#include <algorithm>
#include <cstring>

#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/packed_linear.h"
#include "support/integer.h"

/// Changes of a linear's weights, WeightChange: everything of them but the last sums, which are
/// part of the linear's epilogue (kernels/epilogue.cc).
namespace flux::cpu {
namespace {

/// [rows, 1]
Tensor ones(int64_t rows) {
  const Tensor tensor = Tensor::allocate({rows, 1}, DType::kF32);
  std::fill_n(tensor.data<float>(), rows, 1.0f);
  return tensor;
}

void multiply_packed(Context& ctx, const ConstTensor& x, const LinearWeights& weights,
                     const Tensor& out) {
  static_cast<const PackedLinear&>(*weights.packed).run(ctx, x, {}, {}, out);
}

/// out[i] = rows [first, first + out columns) of (outer (x) inner) x[i], where x[i] is taken for a
/// matrix of outer's columns: outer (x inner^T).
void multiply_kronecker(Context& ctx, const ConstTensor& x, const WeightChange& change,
                        const Tensor& out) {
  const int64_t rows = x.size(0);
  const int64_t columns = change.outer.size(1);
  const int64_t depth = change.down.in_features;
  const int64_t width = change.down.out_features;
  ConstTensor packed_x = x;
  if (!x.is_contiguous()) {
    const Tensor copy = ctx.workspace().allocate(x.shape(), x.dtype());
    copy_convert(x, copy);
    packed_x = copy;
  }
  const Tensor inner = ctx.workspace().allocate({rows * columns, width}, x.dtype());
  multiply_packed(ctx, packed_x.reshape({rows * columns, depth}), change.down, inner);
  dispatch(x.dtype(), [&]<typename T>() {
    for_row_tiles(ctx, rows, change.out_features * columns, [&](int64_t begin, int64_t end, int) {
      std::vector<float> sums(static_cast<size_t>(width));
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t done = 0; done < change.out_features;) {
          const int64_t at = change.first + done;
          const int64_t skipped = at % width;
          const int64_t count = std::min(width - skipped, change.out_features - done);
          const float* factors = row<float>(change.outer, at / width);
          std::fill_n(sums.begin(), count, 0.0f);
          for (int64_t j = 0; j < columns; ++j) {
            const T* values = row<T>(inner, i * columns + j) + skipped;
            for (int64_t k = 0; k < count; ++k) {
              sums[static_cast<size_t>(k)] += factors[j] * static_cast<float>(values[k]);
            }
          }
          std::transform(sums.begin(), sums.begin() + count, row<T>(out, i) + done,
                         [](float value) { return T(value); });
          done += count;
        }
      }
    });
  });
}

}  // namespace

TermSum multiply_down(Context& ctx, const ConstTensor& x, const WeightTerm& term) {
  const WeightChange& change = *term.weights;
  const auto* up = static_cast<const PackedUp*>(change.up.get());
  if (up != nullptr) {
    const Tensor result = ctx.workspace().allocate({x.size(0), change.rank()}, change.down.dtype);
    if (change.down.packed == nullptr) {
      copy_convert(ones(x.size(0)), result);
    } else {
      multiply_packed(ctx, x, change.down, result);
    }
    return {result, up, 0, term.scale};
  }
  // Vectors of columns are added whole: there are zeros around the change.
  const int64_t begin = change.begin / kTermColumns * kTermColumns;
  const int64_t first = change.begin - begin;
  const int64_t columns = round_up(first + change.out_features, kTermColumns);
  const Tensor result = ctx.workspace().allocate({x.size(0), columns}, change.down.dtype);
  std::memset(result.raw(), 0, static_cast<size_t>(result.bytes()));
  const Tensor own = result.slice(1, first, first + change.out_features);
  if (change.outer.defined()) {
    multiply_kronecker(ctx, x, change, own);
  } else {
    multiply_packed(ctx, x, change.down, own);
  }
  return {result, nullptr, begin, term.scale};
}

std::shared_ptr<const PackedWeights> CpuBackend::pack_up(Context& /*ctx*/, const ConstTensor& up,
                                                         const ConstTensor& gains, int64_t begin,
                                                         DType dtype) {
  const auto packed = std::make_shared<PackedUp>();
  packed->begin = begin / kTermColumns * kTermColumns;
  packed->end = round_up(begin + up.size(0), kTermColumns);
  const int64_t first = begin - packed->begin;
  const auto zeros = [](const Shape& shape) {
    const Tensor tensor = Tensor::allocate(shape, DType::kF32);
    std::fill_n(tensor.data<float>(), tensor.numel(), 0.0f);
    return tensor;
  };
  packed->memory = zeros({up.size(1), packed->end - packed->begin});
  const Tensor rounded = Tensor::allocate(up.shape(), DType::kF32);
  copy_convert(up, rounded);
  for (int64_t i = 0; i < up.size(0); ++i) {
    for (int64_t k = 0; k < up.size(1); ++k) {
      row<float>(packed->memory, k)[first + i] = round_to(dtype, row<float>(rounded, i)[k]);
    }
  }
  if (gains.defined()) {
    packed->gains = zeros({packed->end - packed->begin});
    std::copy_n(gains.data<float>(), gains.numel(), packed->gains.data<float>() + first);
  }
  return packed;
}

}  // namespace flux::cpu

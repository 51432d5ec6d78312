#include "ops/cuda/kernels/device.cuh"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/kernels/launch.cuh"

namespace flux::cuda {
namespace {

constexpr int kThreads = 256;

/// Finds the vector of N columns that this thread computes; false when there is none.
template <int N>
__device__ bool locate(int64_t rows, int64_t columns, int64_t* row, int64_t* column) {
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t vectors = columns / N;
  *row = item / vectors;
  *column = item % vectors * N;
  return *row < rows;
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads) store_kernel(StoreRows args) {
  begin_kernel();
  int64_t row, column;
  if (!locate<N>(args.rows, args.columns, &row, &column)) return;
  const auto sums =
      Pack<T, N>::load(static_cast<const T*>(args.sums) + row * args.sums_stride + column);
  Pack<T, N> residual{};
  if (args.residual) {
    residual = Pack<T, N>::load(static_cast<const T*>(args.residual) + row * args.residual_stride +
                                column);
  }
  Pack<T, N> result;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    float y = to_float(sums.values[i]);
    if (args.bias) y += args.bias[column + i];
    y = activate(args.activation, y);
    const float gate = args.gate ? args.gate[column + i] : 1.0f;
    y = args.residual ? __fmaf_rn(y, gate, to_float(residual.values[i])) : y * gate;
    result.values[i] = from_float<T>(y);
  }
  result.store(static_cast<T*>(args.out) + row * args.out_stride + column);
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads) binary_kernel(Binary op, BinaryRows args) {
  begin_kernel();
  int64_t row, column;
  if (!locate<N>(args.rows, args.columns, &row, &column)) return;
  const auto a = Pack<T, N>::load(static_cast<const T*>(args.a) + row * args.a_stride + column);
  const auto b = Pack<T, N>::load(static_cast<const T*>(args.b) + row * args.b_stride + column);
  Pack<T, N> result;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float x = to_float(a.values[i]);
    const float y = to_float(b.values[i]);
    result.values[i] = from_float<T>(op == Binary::kMultiply ? x * y : x + y);
  }
  result.store(static_cast<T*>(args.out) + row * args.out_stride + column);
}

template <typename From, typename To>
__global__ void __launch_bounds__(kThreads) cast_kernel(CopyRows args) {
  begin_kernel();
  int64_t row, column;
  if (!locate<1>(args.rows, args.columns, &row, &column)) return;
  const From value = static_cast<const From*>(args.x)[row * args.x_stride + column];
  static_cast<To*>(args.out)[row * args.out_stride + column] = from_float<To>(to_float(value));
}

constexpr int kTile = 32;
constexpr int kTileRows = 8;

template <typename From, typename To>
__global__ void __launch_bounds__(kTile* kTileRows)
    transpose_kernel(const From* x, int64_t rows, int64_t columns, To* out) {
  begin_kernel();
  __shared__ float tile[kTile][kTile + 1];
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t column = static_cast<int64_t>(blockIdx.y) * kTile;
  for (int i = threadIdx.y; i < kTile; i += kTileRows) {
    if (row + i < rows && column + threadIdx.x < columns) {
      tile[i][threadIdx.x] = to_float(x[(row + i) * columns + column + threadIdx.x]);
    }
  }
  __syncthreads();
  for (int i = threadIdx.y; i < kTile; i += kTileRows) {
    if (column + i < columns && row + threadIdx.x < rows) {
      out[(column + i) * rows + row + threadIdx.x] = from_float<To>(tile[threadIdx.x][i]);
    }
  }
}

constexpr int kProductWarps = 4;

template <typename T>
__device__ void store_product(const StoreRows& store, int64_t row, int64_t column, float y) {
  if (store.bias) y += store.bias[column];
  y = activate(store.activation, y);
  if (store.gate) y *= store.gate[column];
  if (store.residual) {
    y += to_float(static_cast<const T*>(store.residual)[row * store.residual_stride + column]);
  }
  static_cast<T*>(store.out)[row * store.out_stride + column] = from_float<T>(y);
}

/// A warp computes one output column of kRows rows; its lanes stride over the depth, 16 bytes at a
/// time. Blocks of the same columns are neighbours, so that the weights are read from memory once.
template <typename T, int kRows>
__global__ void __launch_bounds__(kProductWarps * 32) row_product_kernel(RowProduct args) {
  begin_kernel();
  constexpr int N = 16 / sizeof(T);
  const int64_t column = static_cast<int64_t>(blockIdx.y) * kProductWarps + threadIdx.x / 32;
  if (column >= args.store.columns) return;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRows;
  const auto* x = static_cast<const T*>(args.x) + first * args.x_stride;
  const auto* weights = static_cast<const T*>(args.weights) + column * args.depth;
  const int rows = static_cast<int>(min(static_cast<int64_t>(kRows), args.store.rows - first));
  float totals[kRows] = {};
#pragma unroll 4
  for (int64_t at = static_cast<int64_t>(threadIdx.x % 32) * N; at < args.depth; at += 32 * N) {
    const auto b = Pack<T, N>::load(weights + at);
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      if (row >= rows) break;
      const auto a = Pack<T, N>::load(x + row * args.x_stride + at);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        totals[row] = fmaf(to_float(a.values[i]), to_float(b.values[i]), totals[row]);
      }
    }
  }
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    if (row >= rows) break;
    const float total = warp_sum(totals[row]);
    if (threadIdx.x % 32 == 0) store_product<T>(args.store, first + row, column, total);
  }
}

/// Returns f.operator()<N>() for the widest vector of activations that fits.
template <typename T, typename F, typename... Values>
cudaError_t with_vectors(const F& f, Values... values) {
  constexpr int kWidest = 16 / sizeof(T);
  return vector_width(kWidest, sizeof(T), values...) == kWidest ? f.template operator()<kWidest>()
                                                                : f.template operator()<1>();
}

}  // namespace

cudaError_t store_rows(const StoreRows& args, DType dtype, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  return dispatch(dtype, [&]<typename T>() {
    const auto launch = [&]<int N>() {
      const unsigned blocks = blocks_for(args.rows * (args.columns / N), kThreads);
      return launch_kernel(store_kernel<T, N>, {blocks, kThreads, stream}, args);
    };
    return with_vectors<T>(launch, args.sums, args.out, args.residual, args.columns,
                           args.sums_stride, args.out_stride, args.residual_stride);
  });
}

cudaError_t row_product(const RowProduct& args, DType dtype, cudaStream_t stream) {
  constexpr int kRows = 8;
  return dispatch(dtype, [&]<typename T>() {
    const unsigned columns = blocks_for(args.store.columns, kProductWarps);
    if (args.store.rows == 1) {
      return launch_kernel(row_product_kernel<T, 1>, {dim3(1, columns), kProductWarps * 32, stream},
                           args);
    }
    const dim3 grid(blocks_for(args.store.rows, kRows), columns);
    return launch_kernel(row_product_kernel<T, kRows>, {grid, kProductWarps * 32, stream}, args);
  });
}

cudaError_t binary_rows(Binary op, const BinaryRows& args, DType dtype, cudaStream_t stream) {
  if (args.rows == 0 || args.columns == 0) return cudaSuccess;
  return dispatch(dtype, [&]<typename T>() {
    const auto launch = [&]<int N>() {
      const unsigned blocks = blocks_for(args.rows * (args.columns / N), kThreads);
      return launch_kernel(binary_kernel<T, N>, {blocks, kThreads, stream}, op, args);
    };
    return with_vectors<T>(launch, args.a, args.b, args.out, args.columns, args.a_stride,
                           args.b_stride, args.out_stride);
  });
}

cudaError_t cast_rows(const CopyRows& args, DType from, DType to, cudaStream_t stream) {
  if (args.rows == 0 || args.columns == 0) return cudaSuccess;
  const unsigned blocks = blocks_for(args.rows * args.columns, kThreads);
  return dispatch(to, [&]<typename To>() {
    auto kernel = cast_kernel<float, To>;
    if (from == DType::kF16) kernel = cast_kernel<__half, To>;
    if (from == DType::kBF16) kernel = cast_kernel<bf16, To>;
    return launch_kernel(kernel, {blocks, kThreads, stream}, args);
  });
}

cudaError_t transpose(const void* x, int64_t rows, int64_t columns, DType from, void* out, DType to,
                      cudaStream_t stream) {
  const dim3 grid(blocks_for(rows, kTile), blocks_for(columns, kTile));
  return dispatch(from, [&]<typename From>() {
    return dispatch(to, [&]<typename To>() {
      return launch_kernel(transpose_kernel<From, To>, {grid, dim3(kTile, kTileRows), stream},
                           static_cast<const From*>(x), rows, columns, static_cast<To*>(out));
    });
  });
}

}  // namespace flux::cuda

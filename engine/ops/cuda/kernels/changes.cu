#include "ops/cuda/kernels/changes.h"
#include "ops/cuda/kernels/device.cuh"
#include "ops/cuda/kernels/launch.cuh"

namespace flux::cuda {
namespace {

/// A block has kRows rows; each of its kParts warps takes a part of the depth. Their sums are added
/// in an order that is always the same.
constexpr int kRows = 32;
constexpr int kParts = 8;
constexpr int kDownThreads = kParts * 32;
/// A depth of kStepDepth is multiplied at once, and two such steps read rows of 16 values for each
/// thread of four: whole lines of the cache.
constexpr int kStepDepth = 32;
constexpr int kPieceDepth = 2 * kStepDepth;

struct DownArgs {
  DownProducts::Item items[kMaxDownItems];
  int count;
  int64_t depth;
};

/// c += a b for 16 rows, 8 columns and a depth of 16; the operands as PTX has them.
__device__ inline void multiply(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// Eight neighbouring values of a row, as bf16.
struct Eight {
  uint32_t words[4];
};
__device__ inline Eight load_eight(const bf16* from) {
  const uint4 four = *reinterpret_cast<const uint4*>(from);
  return {{four.x, four.y, four.z, four.w}};
}
/// All numbers of e4m3 are also numbers of bf16.
__device__ inline Eight load_eight(const uint8_t* from) {
  const auto pairs = Pack<uint16_t, 4>::load(reinterpret_cast<const uint16_t*>(from));
  Eight eight;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __half2 both = __nv_cvt_fp8x2_to_halfraw2(pairs.values[i], __NV_E4M3);
    const float2 values = __half22float2(both);
    eight.words[i] = pack_pair(values.x, values.y);
  }
  return eight;
}

/// A warp's operands of a step: a thread has eight values of each of four rows of x, 8 apart, and
/// of one row of each slice. The values are multiplied in an order of their own, the same for x and
/// down: pairs 0 and 1 of all threads make one depth of 16, pairs 2 and 3 another.
template <typename X, int kSlices>
struct Operands {
  Eight x[4];
  Eight down[kSlices];

  __device__ void load(const DownProducts::Item& item, const X* const (&rows)[4], int64_t at,
                       int64_t depth) {
    const int row = static_cast<int>(threadIdx.x) % 32 / 4;
    const bool inside = at < depth;
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = inside ? load_eight(rows[i] + at) : Eight{};
#pragma unroll
    for (int i = 0; i < kSlices; ++i) {
      const bool there = inside && i < item.count && row < item.slices[i].rows;
      const auto* from = static_cast<const bf16*>(item.slices[i].down) + row * depth + at;
      down[i] = there ? load_eight(from) : Eight{};
    }
  }

  __device__ void multiply_into(float (&sums)[2][kSlices][4]) const {
#pragma unroll
    for (int i = 0; i < kSlices; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Eight& above = x[2 * half];
        const Eight& below = x[2 * half + 1];
#pragma unroll
        for (int k = 0; k < 4; k += 2) {
          multiply(sums[half][i], above.words[k], below.words[k], above.words[k + 1],
                   below.words[k + 1], down[i].words[k], down[i].words[k + 1]);
        }
      }
    }
  }
};

/// kTogether steps, whose operands are loaded together: the more, the more loads are on their way.
template <typename X, int kSlices, int kTogether>
struct Steps {
  Operands<X, kSlices> steps[kTogether];

  /// From step `first` of the depth on.
  __device__ void load(const DownProducts::Item& item, const X* const (&rows)[4], int64_t first,
                       int64_t depth) {
    const int64_t mine = static_cast<int>(threadIdx.x) % 4 * 16;
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int64_t step = first + i;
      steps[i].load(item, rows, step / 2 * kPieceDepth + mine + step % 2 * 8, depth);
    }
  }
  __device__ void multiply_into(float (&sums)[2][kSlices][4]) const {
#pragma unroll
    for (const Operands<X, kSlices>& step : steps) step.multiply_into(sums);
  }
};

/// Two blocks a multiprocessor hide what loads take. kAhead: whether a warp loads the next steps
/// before it multiplies, for which many slices leave no registers.
template <typename X, int kSlices, int kTogether, bool kAhead>
__global__ void __launch_bounds__(kDownThreads, 2)
    down_kernel(const __grid_constant__ DownArgs args) {
  begin_kernel();
  __shared__ float shared[kParts / 2][kRows][kSlices * 8];
  int index = 0;
  while (index + 1 < args.count && blockIdx.x >= args.items[index + 1].first_block) ++index;
  const DownProducts::Item& item = args.items[index];
  const int part = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x - item.first_block) * kRows;
  const X* rows[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {  // rows beyond the last read the last one
    const int64_t row = min(first_row + lane / 4 + 8 * i, item.rows - 1);
    rows[i] = static_cast<const X*>(item.x) + row * item.x_stride;
  }

  float sums[2][kSlices][4] = {};
  const int64_t pieces = (args.depth + kPieceDepth - 1) / kPieceDepth;
  const int64_t end = pieces * (part + 1) / kParts * 2;
  int64_t step = pieces * part / kParts * 2;
  Steps<X, kSlices, kTogether> now;
  if (kAhead && step < end) now.load(item, rows, step, args.depth);
  for (; step < end; step += kTogether) {
    Steps<X, kSlices, kTogether> next;
    if (kAhead && step + kTogether < end) next.load(item, rows, step + kTogether, args.depth);
    if (!kAhead) now.load(item, rows, step, args.depth);
    now.multiply_into(sums);
    if (kAhead) now = next;
  }

  /// f(row of the block, slice, column, two neighbouring sums)
  const auto each = [&](const auto& f) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kSlices; ++i) {
#pragma unroll
        for (int k = 0; k < 4; k += 2) {
          f(lane / 4 + 16 * half + 4 * k, i, 8 * i + lane % 4 * 2, sums[half][i][k],
            sums[half][i][k + 1]);
        }
      }
    }
  };
  // The upper half of the parts is added to the lower, until one is left.
#pragma unroll
  for (int left = kParts / 2; left > 0; left /= 2) {
    if (part >= left && part < 2 * left) {
      each([&](int row, int, int column, float& a, float& b) {
        *reinterpret_cast<float2*>(&shared[part - left][row][column]) = make_float2(a, b);
      });
    }
    __syncthreads();
    if (part < left) {
      each([&](int row, int, int column, float& a, float& b) {
        const auto other = *reinterpret_cast<const float2*>(&shared[part][row][column]);
        a += other.x;
        b += other.y;
      });
    }
    __syncthreads();
  }
  if (part > 0) return;
  each([&](int row, int slice, int column, float a, float b) {
    const int64_t at_row = first_row + row;
    if (slice >= item.count || at_row >= item.rows) return;
    float scale = item.slices[slice].scale;
    if (item.x_scales) scale *= item.x_scales[at_row * item.x_scales_stride];
    bf16* to = static_cast<bf16*>(item.out) + at_row * item.out_stride + column;
    *reinterpret_cast<uint32_t*>(to) = pack_pair(a * scale, b * scale);
  });
}

constexpr int kThreads = 256;

template <typename T>
__global__ void __launch_bounds__(kThreads) kronecker_kernel(KroneckerRows args) {
  begin_kernel();
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t row = item / args.out_columns;
  const int64_t column = item % args.out_columns;
  if (row >= args.rows) return;
  const float* factors = args.outer + (args.first + column) / args.width * args.columns;
  const T* inner = static_cast<const T*>(args.inner) + row * args.columns * args.width +
                   (args.first + column) % args.width;
  float sum = 0.0f;
  for (int64_t i = 0; i < args.columns; ++i) {
    sum = fmaf(factors[i], to_float(inner[i * args.width]), sum);
  }
  static_cast<T*>(args.out)[row * args.out_stride + column] = from_float<T>(sum);
}

__global__ void __launch_bounds__(kThreads) column_sums_kernel(ColumnSums args) {
  begin_kernel();
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= args.columns) return;
  float sum = args.base ? args.base[column] : args.constant;
  for (int i = 0; i < args.count; ++i) {
    const ColumnSums::Item& item = args.items[i];
    if (column < item.begin || column >= item.end) continue;
    sum = fmaf(item.scale, item.values[(column - item.begin) * item.stride], sum);
  }
  args.out[column] = sum;
}

}  // namespace

cudaError_t down_products(const DownProducts& products, cudaStream_t stream) {
  DownArgs args{};
  args.depth = products.depth;
  unsigned blocks = 0;
  int slices = 0;
  for (const DownProducts::Item& item : products.items) {
    DownProducts::Item& own = args.items[args.count++];
    own = item;
    own.first_block = blocks;
    blocks += blocks_for(item.rows, kRows);
    slices = max(slices, item.count);
  }
  if (blocks == 0) return cudaSuccess;
  const auto launch = [&]<typename X>() {
    auto kernel = down_kernel<X, 8, 1, false>;
    if (slices <= 6) kernel = down_kernel<X, 6, 1, false>;
    if (slices <= 4) kernel = down_kernel<X, 4, 1, true>;
    if (slices <= 2) kernel = down_kernel<X, 2, 1, true>;
    return launch_kernel(kernel, {blocks, kDownThreads, stream}, args);
  };
  return products.e4m3 ? launch.template operator()<uint8_t>() : launch.template operator()<bf16>();
}

cudaError_t kronecker_rows(const KroneckerRows& args, DType dtype, cudaStream_t stream) {
  const unsigned blocks = blocks_for(args.rows * args.out_columns, kThreads);
  if (blocks == 0) return cudaSuccess;
  return dispatch(dtype, [&]<typename T>() {
    return launch_kernel(kronecker_kernel<T>, {blocks, kThreads, stream}, args);
  });
}

cudaError_t column_sums(const ColumnSums& args, cudaStream_t stream) {
  return launch_kernel(column_sums_kernel, {blocks_for(args.columns, kThreads), kThreads, stream},
                       args);
}

}  // namespace flux::cuda

#include <cuda_fp16.h>

#include "ops/cuda/kernels/device.cuh"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/kernels/launch.cuh"

/// Decoding of stored weights. A thread computes 8 neighbouring values, which share a scale in
/// every encoding, so that a warp writes 512 bytes in a row. No product and sum become one
/// operation: the bits before the rounding are those of the CPU.
namespace flux::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kValues = 8;

/// Blocks begin at even addresses only.
__device__ float half_at(const uint8_t* bytes) {
  const auto bits = static_cast<unsigned short>(bytes[0] | bytes[1] << 8);
  return __half2float(__ushort_as_half(bits));
}

/// values[i] = d * q[i] - m, each operation rounded.
struct Affine {
  float d;
  float m;
  __device__ float operator()(int q) const {
    return __fsub_rn(__fmul_rn(d, static_cast<float>(q)), m);
  }
};

/// The blocks of 32 values: [d | m] [high bits] [low bits].
template <bool kHasMinimum, bool kHasFifthBit>
__device__ void decode_32(const uint8_t* block, int at, float* values) {
  const float d = half_at(block);
  const float m = kHasMinimum ? half_at(block + 2) : 0.0f;
  const uint8_t* low = block + (kHasMinimum ? 4 : 2);
  uint32_t high = 0;
  if (kHasFifthBit) {
    high = low[0] | low[1] << 8 | low[2] << 16 | static_cast<uint32_t>(low[3]) << 24;
    low += 4;
  }
  constexpr int kZero = kHasFifthBit ? 16 : 8;
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    const int index = at + i;
    int q = low[index % 16] >> (index / 16 * 4) & 0xf;
    if (kHasFifthBit) q |= static_cast<int>(high >> index & 1) << 4;
    values[i] = kHasMinimum ? __fadd_rn(__fmul_rn(d, static_cast<float>(q)), m)
                            : __fmul_rn(d, static_cast<float>(q - kZero));
  }
}

__device__ void decode_q8_0(const uint8_t* block, int at, float* values) {
  const float d = half_at(block);
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    values[i] = __fmul_rn(d, static_cast<float>(static_cast<int8_t>(block[2 + at + i])));
  }
}

__device__ void decode_q2k(const uint8_t* block, int at, float* values) {
  const uint8_t scale = block[at / 16];
  const uint8_t* qs = block + 16 + at / 128 * 32 + at % 32;
  const int shift = at / 32 % 4 * 2;
  const Affine value{__fmul_rn(half_at(block + 80), static_cast<float>(scale & 0xf)),
                     __fmul_rn(half_at(block + 82), static_cast<float>(scale >> 4))};
#pragma unroll
  for (int i = 0; i < kValues; ++i) values[i] = value(qs[i] >> shift & 3);
}

__device__ void decode_q3k(const uint8_t* block, int at, float* values) {
  const int sub = at / 16;
  const uint8_t* packed = block + 96;
  const int low = packed[sub % 8] >> (sub / 8 * 4) & 0xf;
  const int scale = (low | (packed[8 + sub % 4] >> (sub / 4 * 2) & 3) << 4) - 32;
  const float d = __fmul_rn(half_at(block + 108), static_cast<float>(scale));
  const uint8_t* high = block + at % 32;
  const uint8_t* qs = block + 32 + at / 128 * 32 + at % 32;
  const int shift = at / 32 % 4 * 2;
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    const int absent = high[i] >> (at / 32) & 1 ? 0 : 4;
    values[i] = __fmul_rn(d, static_cast<float>((qs[i] >> shift & 3) - absent));
  }
}

/// Q4_K and Q5_K: `high` holds a fifth bit, or is null.
__device__ void decode_q45k(const uint8_t* block, const uint8_t* high, const uint8_t* qs, int at,
                            float* values) {
  const int sub = at / 32;
  const uint8_t* packed = block + 4;
  const int scale =
      sub < 4 ? packed[sub] & 0x3f : (packed[sub + 4] & 0xf) | (packed[sub - 4] >> 2 & 0x30);
  const int minimum =
      sub < 4 ? packed[sub + 4] & 0x3f : packed[sub + 4] >> 4 | (packed[sub] >> 2 & 0x30);
  const Affine value{__fmul_rn(half_at(block), static_cast<float>(scale)),
                     __fmul_rn(half_at(block + 2), static_cast<float>(minimum))};
  const uint8_t* low = qs + at / 64 * 32 + at % 32;
  const int shift = sub % 2 * 4;
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    int q = low[i] >> shift & 0xf;
    if (high != nullptr) q |= (high[at % 32 + i] >> sub & 1) << 4;
    values[i] = value(q);
  }
}

__device__ void decode_q6k(const uint8_t* block, int at, float* values) {
  const int in_half = at % 128;
  const uint8_t* low = block + at / 128 * 64 + in_half % 64;
  const uint8_t* high = block + 128 + at / 128 * 32 + at % 32;
  const auto scale = static_cast<int8_t>(block[192 + at / 16]);
  const float d = __fmul_rn(half_at(block + 208), static_cast<float>(scale));
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    const int four = low[i] >> (in_half / 64 * 4) & 0xf;
    const int two = high[i] >> (in_half / 32 * 2) & 3;
    values[i] = __fmul_rn(d, static_cast<float>((four | two << 4) - 32));
  }
}

/// OCP's E4M3: its bits are those of a half with 4 more bits of exponent, but for the bias.
__device__ float e4m3(uint8_t bits) {
  if ((bits & 0x7f) == 0x7f) return __uint_as_float(0x7fc00000u | (bits & 0x80u) << 24);
  const auto shifted = static_cast<unsigned short>((bits & 0x80) << 8 | (bits & 0x7f) << 7);
  return __half2float(__ushort_as_half(shifted)) * 256.0f;
}

template <Encoding kEncoding, int kBlockValues, int kBlockBytes>
__device__ void decode_values(const DecodeRows& args, int64_t row, int64_t column, float* values) {
  const uint8_t* block = args.bytes + row * args.row_bytes + column / kBlockValues * kBlockBytes;
  const int at = static_cast<int>(column % kBlockValues);
  if constexpr (kEncoding == Encoding::kF8E4M3) {
    const float scale = args.scales == nullptr ? 1.0f : args.scales[args.scale_each_row ? row : 0];
#pragma unroll
    for (int i = 0; i < kValues; ++i) values[i] = __fmul_rn(e4m3(block[i]), scale);
  } else if constexpr (kEncoding == Encoding::kQ4_0) {
    decode_32<false, false>(block, at, values);
  } else if constexpr (kEncoding == Encoding::kQ4_1) {
    decode_32<true, false>(block, at, values);
  } else if constexpr (kEncoding == Encoding::kQ5_0) {
    decode_32<false, true>(block, at, values);
  } else if constexpr (kEncoding == Encoding::kQ5_1) {
    decode_32<true, true>(block, at, values);
  } else if constexpr (kEncoding == Encoding::kQ8_0) {
    decode_q8_0(block, at, values);
  } else if constexpr (kEncoding == Encoding::kQ2K) {
    decode_q2k(block, at, values);
  } else if constexpr (kEncoding == Encoding::kQ3K) {
    decode_q3k(block, at, values);
  } else if constexpr (kEncoding == Encoding::kQ4K) {
    decode_q45k(block, nullptr, block + 16, at, values);
  } else if constexpr (kEncoding == Encoding::kQ5K) {
    decode_q45k(block, block + 16, block + 48, at, values);
  } else {
    decode_q6k(block, at, values);
  }
}

template <Encoding kEncoding, int kBlockValues, int kBlockBytes, typename T>
__global__ void __launch_bounds__(kThreads) decode_kernel(DecodeRows args) {
  begin_kernel();
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t groups = args.columns / kValues;
  const int64_t row = item / groups;
  const int64_t column = item % groups * kValues;
  if (row >= args.rows) return;
  float values[kValues];
  decode_values<kEncoding, kBlockValues, kBlockBytes>(args, row, column, values);
  Pack<T, kValues> result;
#pragma unroll
  for (int i = 0; i < kValues; ++i) result.values[i] = from_float<T>(values[i]);
  result.store(static_cast<T*>(args.out) + row * args.columns + column);
}

template <Encoding kEncoding>
cudaError_t launch_decode(const DecodeRows& args, DType dtype, cudaStream_t stream) {
  const int64_t items = args.rows * (args.columns / kValues);
  const Grid grid{dim3(static_cast<unsigned>((items + kThreads - 1) / kThreads)), dim3(kThreads),
                  stream};
  constexpr int kBlock = static_cast<int>(info_of(kEncoding).block_values);
  constexpr int kBytes = static_cast<int>(info_of(kEncoding).block_bytes);
  return dtype == DType::kBF16
             ? launch_kernel(decode_kernel<kEncoding, kBlock, kBytes, bf16>, grid, args)
             : launch_kernel(decode_kernel<kEncoding, kBlock, kBytes, float>, grid, args);
}

}  // namespace

cudaError_t decode_rows(const DecodeRows& args, DType dtype, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  if (args.columns % kValues != 0) return cudaErrorInvalidValue;
  switch (args.encoding) {
    case Encoding::kF8E4M3:
      return launch_decode<Encoding::kF8E4M3>(args, dtype, stream);
    case Encoding::kQ4_0:
      return launch_decode<Encoding::kQ4_0>(args, dtype, stream);
    case Encoding::kQ4_1:
      return launch_decode<Encoding::kQ4_1>(args, dtype, stream);
    case Encoding::kQ5_0:
      return launch_decode<Encoding::kQ5_0>(args, dtype, stream);
    case Encoding::kQ5_1:
      return launch_decode<Encoding::kQ5_1>(args, dtype, stream);
    case Encoding::kQ8_0:
      return launch_decode<Encoding::kQ8_0>(args, dtype, stream);
    case Encoding::kQ2K:
      return launch_decode<Encoding::kQ2K>(args, dtype, stream);
    case Encoding::kQ3K:
      return launch_decode<Encoding::kQ3K>(args, dtype, stream);
    case Encoding::kQ4K:
      return launch_decode<Encoding::kQ4K>(args, dtype, stream);
    case Encoding::kQ5K:
      return launch_decode<Encoding::kQ5K>(args, dtype, stream);
    case Encoding::kQ6K:
      return launch_decode<Encoding::kQ6K>(args, dtype, stream);
    case Encoding::kPlain:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace flux::cuda

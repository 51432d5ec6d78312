#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "ops/ops.h"

/// Device functions of all kernels: vectors of activations, activation functions, sums over a
/// block.
namespace flux::cuda {

using bf16 = __nv_bfloat16;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __bfloat162float(x); }
__device__ inline float to_float(__half x) { return __half2float(x); }
template <typename T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline bf16 from_float<bf16>(float x) {
  return __float2bfloat16_rn(x);
}

/// Two neighbouring bf16 in a word.
__device__ inline uint32_t pack_pair(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&both);
}
__device__ inline float2 unpack_pair(uint32_t word) {
  return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
}

/// N neighbouring elements, loaded and stored at once where N x sizeof(T) is at most 16 bytes.
template <typename T, int N>
struct alignas(sizeof(T) * N <= 16 ? sizeof(T) * N : 16) Pack {
  T values[N];

  __device__ static Pack load(const T* from) { return *reinterpret_cast<const Pack*>(from); }
  __device__ void store(T* to) const { *reinterpret_cast<Pack*>(to) = *this; }
};

/// Raises a value that is not negative to at least `value`, in threads where `mine`. Reads first:
/// most values are smaller.
__device__ inline void raise(float* to, float value, bool mine) {
  if (!mine || !(value > *static_cast<volatile float*>(to))) return;
  atomicMax(reinterpret_cast<unsigned*>(to), __float_as_uint(value));
}

/// Eight neighbouring bf16 in four words.
__device__ inline Pack<float, 8> unpack_words(const uint32_t (&words)[4]) {
  Pack<float, 8> values;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack_pair(words[i]);
    values.values[2 * i] = pair.x;
    values.values[2 * i + 1] = pair.y;
  }
  return values;
}

template <typename T, int N>
__device__ Pack<T, N> round_pack(const Pack<float, N>& pack) {
  Pack<T, N> rounded;
#pragma unroll
  for (int i = 0; i < N; ++i) rounded.values[i] = from_float<T>(pack.values[i]);
  return rounded;
}

__device__ inline float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

__device__ inline float activate(Activation activation, float x) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kGeluTanh:  // (1 + tanh u) / 2 = sigmoid(2 u)
      return x * sigmoid(x * (1.595769122f + 0.071354816f * x * x));
    case Activation::kGeluErf:
      return 0.5f * x * erfcf(-0.70710678f * x);
    case Activation::kQuickGelu:
      return x * sigmoid(1.702f * x);
    case Activation::kSilu:
      return x * sigmoid(x);
    case Activation::kRelu:
      return x < 0.0f ? 0.0f : x;
  }
  return x;
}

__device__ inline float warp_sum(float value) {
  for (int lane = 16; lane > 0; lane /= 2) value += __shfl_xor_sync(0xffffffffu, value, lane);
  return value;
}

__device__ inline float warp_max(float value) {
  for (int lane = 16; lane > 0; lane /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, lane));
  }
  return value;
}

/// The norm and rotation of a head, in three functions with each rounding spelled out, so that they
/// give the same bits wherever they are compiled: the squares of a pair, the factor of a head (from
/// the sum of its squares), and the resulting pair.
__device__ inline float squares_of(float2 pair) {
  return __fmaf_rn(pair.x, pair.x, __fmul_rn(pair.y, pair.y));
}
__device__ inline float norm_factor(float squares, float dim, float eps) {
  return rsqrtf(__fadd_rn(squares / dim, eps));
}
__device__ inline float2 norm_and_rotate(float2 pair, float factor, float2 weight, float cos,
                                         float sin) {
  const float a = __fmul_rn(__fmul_rn(pair.x, factor), weight.x);
  const float b = __fmul_rn(__fmul_rn(pair.y, factor), weight.y);
  return make_float2(__fmaf_rn(a, cos, -__fmul_rn(b, sin)), __fmaf_rn(b, cos, __fmul_rn(a, sin)));
}

/// What the values of a row are multiplied with to become e4m3, for the scale of the row.
__device__ inline float e4m3_factor(float scale) { return scale > 1e-30f ? 1.0f / scale : 0.0f; }
/// Stores values times `factor` as e4m3, rounded to the nearest even, at most the largest number.
/// NaN stays NaN. Returns the sum of the squares of the numbers stored.
template <int N>
__device__ inline float store_as_e4m3(const Pack<float, N>& values, float factor, uint8_t* to) {
  Pack<uint16_t, N / 2> pairs;
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < N / 2; ++i) {
    const float2 pair =
        make_float2(values.values[2 * i] * factor, values.values[2 * i + 1] * factor);
    pairs.values[i] = __nv_cvt_float2_to_fp8x2(pair, __NV_SATFINITE, __NV_E4M3);
    const __half2 stored = __nv_cvt_fp8x2_to_halfraw2(pairs.values[i], __NV_E4M3);
    squares += squares_of(__half22float2(stored));
  }
  pairs.store(reinterpret_cast<uint16_t*>(to));
  return squares;
}

/// The place of the values of a key among those of 16 keys; see EncodeHeads.
__device__ constexpr int encoded_key(int key) { return key % 8 / 2 * 4 + key / 8 * 2 + key % 2; }

/// 2^x that flushes denormal numbers to zero; exp2f needs three more instructions to keep them.
__device__ inline float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

/// Sum (or maximum) over a block of whole warps, the same in every thread. `shared`: 32 floats.
template <bool kMax = false>
__device__ float block_reduce(float value, float* shared) {
  const int warps = static_cast<int>(blockDim.x) / 32;
  value = kMax ? warp_max(value) : warp_sum(value);
  __syncthreads();  // the values of an earlier call have been read
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  float total = shared[0];
  for (int i = 1; i < warps; ++i) total = kMax ? fmaxf(total, shared[i]) : total + shared[i];
  return total;
}

inline unsigned blocks_for(int64_t work, int64_t per_block) {
  return static_cast<unsigned>((work + per_block - 1) / per_block);
}

/// Calls f.operator()<T>() with the element type of activations.
template <typename F>
auto dispatch(DType dtype, const F& f) {
  return dtype == DType::kBF16 ? f.template operator()<bf16>() : f.template operator()<float>();
}

/// The widest vector, of at most `widest` elements, that all of these sizes and addresses allow.
template <typename... Values>
int vector_width(int widest, size_t element, Values... values) {
  int width = widest;
  const auto fits = [&](auto value) {
    if constexpr (std::is_pointer_v<decltype(value)>) {
      const size_t bytes = static_cast<size_t>(width) * element;
      return reinterpret_cast<uintptr_t>(value) % (bytes < 16 ? bytes : 16) == 0;
    } else {
      return value % width == 0;
    }
  };
  while (width > 1 && !(fits(values) && ...)) width /= 2;
  return width;
}

}  // namespace flux::cuda

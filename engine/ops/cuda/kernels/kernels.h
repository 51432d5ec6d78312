#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "ops/ops.h"
#include "tensor/dtype.h"

/// The kernels as plain functions: device addresses, sizes and strides in elements. Each puts work
/// on a stream and returns; launch errors are found with cudaGetLastError. T is the dtype that a
/// function is given: f32 or bf16. Arithmetic is f32; sums have an order that depends on the shape
/// alone. These files are compiled by nvcc and know nothing of tensors.
namespace flux::cuda {

struct GpuTraits {
  bool hopper = false;  // and this build has kernels for it alone
  int multiprocessors = 1;
};
/// Of the current device. Fails where this build has no kernels for it.
cudaError_t read_gpu_traits(GpuTraits& traits);

struct NormRows {
  const void* x;  // [rows, n], T
  int64_t x_stride;
  void* out;
  int64_t out_stride;
  int64_t rows;
  int64_t n;
  bool centred;         // layer norm: the mean is subtracted; else RMS norm
  const float* weight;  // [n] each, null where left out
  const float* bias;
  const float* scale;
  const float* shift;
  float eps;
};
/// Of several matrices at once, which all have rows, as many columns.
inline constexpr size_t kMaxNormParts = 16;
void norm_rows(std::span<const NormRows> parts, DType dtype, cudaStream_t stream);

/// In place, as ops.h says of rms_norm_rope. dim is even and at most kMaxRopeDim.
struct NormRope {
  void* x;
  int64_t tokens;
  int64_t heads;
  int64_t dim;
  int64_t token_stride;
  int64_t head_stride;
  const float* weight;
  float eps;
  const float* cos;
  const float* sin;
};
inline constexpr int64_t kMaxRopeDim = 512;
void norm_rope(const NormRope& args, DType dtype, cudaStream_t stream);

inline constexpr int kMaxRopeAxes = 8;
struct RopeAngles {
  const float* positions;  // [tokens, axes]
  int64_t tokens;
  int axes;
  int64_t dims[kMaxRopeAxes];
  int64_t pairs;  // of all axes
  float* cos;
  float* sin;
};
void rope_angles(const RopeAngles& args, cudaStream_t stream);

/// out = residual + gate * activation(sums + bias). Null where left out; out may be sums or
/// residual.
struct StoreRows {
  const void* sums;  // [rows, columns], T
  int64_t sums_stride;
  int64_t rows;
  int64_t columns;
  const float* bias;
  Activation activation;
  const float* gate;
  const void* residual;
  int64_t residual_stride;
  void* out;
  int64_t out_stride;
};
void store_rows(const StoreRows& args, DType dtype, cudaStream_t stream);

/// The same for the product of a few rows x with weights [columns, depth], contiguous; sums is not
/// used. Rows of x and weights are aligned to 16 bytes and depth is a multiple of 8. A row's bits
/// do not depend on how many there are.
inline constexpr int64_t kMaxProductRows = 64;
struct RowProduct {
  const void* x;  // [store.rows, depth]
  int64_t x_stride;
  const void* weights;
  int64_t depth;
  StoreRows store;
};
void row_product(const RowProduct& args, DType dtype, cudaStream_t stream);

/// Linears of one shape over the rows of several parts, as StoreRows says, in bf16 on Hopper; see
/// hopper_linear_supports. An element's bits do not depend on the parts, nor on the tiles; they are
/// those of cuBLASLt's product, rounded, and store_rows() or norm_rope(); GELU is of that product
/// too, by a tanh that is exact enough for bf16.
inline constexpr size_t kMaxLinearParts = 16;
inline constexpr int kLinearTiles = 5;
struct HopperLinear {
  /// Of queries and keys, as norm_rope() does it.
  struct Norm {
    const float* weights[2];  // of queries and of keys, [head_dim]
    const float* cos;         // [rows, head_dim / 2]
    const float* sin;
    float eps;
  };
  struct Part {
    const void* x;  // [rows, depth]
    int64_t x_stride;
    int64_t rows;
    const void* weights;  // [columns, depth], contiguous
    const float* bias;    // null where left out, as gate and residual
    const float* gate;    // only with a residual
    const void* residual;
    int64_t residual_stride;
    Norm norm;  // where head_dim is not 0
    void* out;  // may be residual
    int64_t out_stride;
  };
  int64_t depth;
  int64_t columns;
  bool gelu;         // tanh; not with a residual
  int64_t head_dim;  // 0, or the columns are q | k | v; not with any of the others
  std::span<const Part> parts;
  int tile = -1;  // below kLinearTiles: this shape of tile instead of the best
};
/// Whether sizes are multiples of 8, addresses aligned to 16 bytes, the parts alike and heads, if
/// there are any, of 128 columns. Not every shape of tile can do norms.
bool hopper_linear_supports(const HopperLinear& linear);
/// The multiplications and additions of a perfect kernel that take as long.
double hopper_linear_operations(const HopperLinear& linear, int multiprocessors);
cudaError_t hopper_linear(const HopperLinear& linear, int multiprocessors, cudaStream_t stream);

enum class Binary { kMultiply, kAdd };
struct BinaryRows {
  const void* a;
  int64_t a_stride;
  const void* b;
  int64_t b_stride;
  void* out;
  int64_t out_stride;
  int64_t rows;
  int64_t columns;
};
void binary_rows(Binary op, const BinaryRows& args, DType dtype, cudaStream_t stream);

struct CopyRows {
  const void* x;
  int64_t x_stride;
  void* out;
  int64_t out_stride;
  int64_t rows;
  int64_t columns;
};
/// Converts between f32, bf16 and f16 sources and f32 or bf16 results.
void cast_rows(const CopyRows& args, DType from, DType to, cudaStream_t stream);
/// x: [rows, columns] of `from` -> out: [columns, rows] of `to`; contiguous.
void transpose(const void* x, int64_t rows, int64_t columns, DType from, void* out, DType to,
               cudaStream_t stream);

/// As ops.h says of euler_step; delta is rounded to T.
struct EulerValues {
  void* latents;
  int64_t count;
  float delta;
  const void* prediction;
  const void* negative;  // null where left out
  float cfg_scale;
};
void euler_values(const EulerValues& args, DType dtype, cudaStream_t stream);

/// As ops.h says of unpack_tokens.
struct UnpackValues {
  const void* packed;
  int64_t channels;
  int64_t height;
  int64_t width;
  float divisor;
  float shift;
  void* out;
};
void unpack_values(const UnpackValues& args, DType dtype, cudaStream_t stream);

/// As ops.h says of to_bytes, for `plane` pixels.
void byte_pixels(const float* x, int64_t plane, uint8_t* out, cudaStream_t stream);

struct GroupNorm {
  const void* x;  // [pixels, channels], T
  void* out;
  int64_t pixels;
  int64_t channels;
  int64_t groups;
  const float* weight;
  const float* bias;
  float eps;
  Activation activation;
  float* scratch;  // group_norm_scratch() floats
};
int64_t group_norm_scratch(int64_t pixels, int64_t groups);
void group_norm(const GroupNorm& args, DType dtype, cudaStream_t stream);

/// The inputs of `count` output pixels from `first` on, row by row, for a product with the weights:
/// out: [count, kernel x kernel x channels], T. Zero outside the image.
struct Im2col {
  const void* x;  // [height, width, channels] before upsampling
  int64_t height;
  int64_t width;
  int64_t channels;
  int64_t kernel;
  bool upsample;
  int64_t first;
  int64_t count;
  void* out;
};
void im2col(const Im2col& args, DType dtype, cudaStream_t stream);

/// A bf16 convolution as a product over taps, or one phase of one whose input is doubled.
struct HopperConvolution {
  const void* x;  // [height, width, channels]
  int height;
  int width;
  int channels;
  const void* weights;  // [out_channels, taps, channels]
  int taps;
  int dy[9];  // where each tap reads, relative to the pixel
  int dx[9];
  const float* bias;     // [out_channels]
  const void* residual;  // null, or shaped as out; may be out
  /// [height x out_step, width x out_step, out_channels]; pixel (y, x) goes to (y out_step + out_y,
  /// x out_step + out_x).
  void* out;
  int out_channels;
  int out_step;
  int out_y;
  int out_x;
};
bool hopper_convolution_supports(int64_t channels);
cudaError_t hopper_convolution(const HopperConvolution& conv, int multiprocessors,
                               cudaStream_t stream);

/// A 3 x 3 filter over an image doubled to its nearest neighbours sees only 2 x 2 pixels of the
/// original; which ones, and with which sums of weights, depends on the phase (y % 2, x % 2) of the
/// output pixel. weights [out, in, 3, 3], f32 -> out: [4 phases, out, 2 x 2, in], bf16.
void make_phase_filters(const float* weights, int64_t out_channels, int64_t in_channels, void* out,
                        cudaStream_t stream);

/// weights [out, in, k, k] -> [out, k, k, in] of one dtype.
void reorder_filters(const void* x, int64_t out_channels, int64_t in_channels, int64_t kernel,
                     void* out, DType dtype, cudaStream_t stream);

/// Rows of attention weights: softmax of scale * scores (+ bias), masked where causal.
struct SoftmaxRows {
  const float* scores;  // [heads, q_rows, k_tokens], rows row_stride apart
  void* out;            // the same, T
  int64_t row_stride;
  int64_t heads;
  int64_t q_rows;
  int64_t first_q;  // position of row 0
  int64_t q_tokens;
  int64_t k_tokens;
  float scale;
  bool causal;
  const float* bias;  // null, or as ops.h says of AttentionOptions::relative_bias
};
void softmax_rows(const SoftmaxRows& args, DType dtype, cudaStream_t stream);

inline constexpr float kLog2E = 1.44269504f;

/// bf16 attention as ops.h says; strides are multiples of 8 and addresses aligned to 16 bytes.
struct FlashAttention {
  const void* q;
  const void* k;
  const void* v;
  void* out;
  int64_t q_strides[2];  // token, head
  int64_t k_strides[2];
  int64_t v_strides[2];
  int64_t out_strides[2];
  int64_t q_tokens;
  int64_t k_tokens;
  int64_t heads;
  int64_t dim;  // see flash_supports
  float scale;
  bool causal;
  const float* bias;
  float largest_score;  // infinity where it is not known
};
bool flash_supports(int64_t dim);
void flash_attention(const FlashAttention& args, cudaStream_t stream);

/// The same, faster, on Hopper for arguments that it supports; at once for several sequences, which
/// share scale, dim and largest_score.
inline constexpr size_t kMaxAttentionParts = 16;
bool hopper_attention_supports(const FlashAttention& args);
cudaError_t hopper_attention(std::span<const FlashAttention> parts, int multiprocessors,
                             cudaStream_t stream);

}  // namespace flux::cuda

#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <optional>
#include <span>

#include "ops/cuda/kernels/gpu_traits.h"
#include "ops/ops.h"
#include "tensor/dtype.h"
#include "tensor/encoding.h"

/// The kernels as plain functions: device addresses, sizes and strides in elements. Each puts work
/// on a stream and returns; an error is that of the launch. T is the dtype that a function is
/// given: f32 or bf16. Arithmetic is f32; sums have an order that depends on the shape alone. These
/// files are compiled by nvcc and know nothing of tensors.
namespace flux::cuda {

/// The traits of the current device. Fails where this build has no kernels for it.
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
  float* scales;  // null, or [rows]: then out is e4m3, T is bf16, and all is aligned to 16 bytes
  float* norms;   // [rows], at least those of the values
};
/// Normalises several matrices with the same number of columns; none is empty. All results are T,
/// or all are e4m3.
inline constexpr size_t kMaxNormSegments = 16;
cudaError_t norm_rows(std::span<const NormRows> segments, DType dtype, const GpuTraits& gpu,
                      cudaStream_t stream);

/// rms_norm_rope() of ops.h, in place. dim is even and at most kMaxRopeDim.
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
cudaError_t norm_rope(const NormRope& args, DType dtype, cudaStream_t stream);

inline constexpr int kMaxRopeAxes = 8;
struct RopeAngles {
  const float* positions;  // [tokens, axes]
  double theta;            // base of the frequencies
  int64_t tokens;
  int axes;
  int64_t dims[kMaxRopeAxes];
  int64_t pairs;  // of all axes
  float* cos;
  float* sin;
};
cudaError_t rope_angles(const RopeAngles& args, cudaStream_t stream);

/// out = residual + gate * activation(sums + bias). Pointers are null where left out; out may be
/// sums or residual.
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
cudaError_t store_rows(const StoreRows& args, DType dtype, cudaStream_t stream);

/// store_rows() of the product of a few rows x with weights [columns, depth], contiguous, in place
/// of `sums`. Rows of x and weights are aligned to 16 bytes and depth is a multiple of 8. A row's
/// bits do not depend on the number of rows.
inline constexpr int64_t kMaxProductRows = 64;
struct RowProduct {
  const void* x;  // [store.rows, depth]
  int64_t x_stride;
  const void* weights;
  int64_t depth;
  StoreRows store;
};
cudaError_t row_product(const RowProduct& args, DType dtype, cudaStream_t stream);

/// Linears of one shape over the rows of several segments, of bf16 or e4m3 on Hopper; see
/// hopper_linear_supports. An element's bits depend neither on the segments nor on the tiles: they
/// are those of cuBLASLt's product, rounded, followed by store_rows() or norm_rope(). GELU is also
/// computed of the rounded product, by a tanh that is exact enough for bf16.
inline constexpr size_t kMaxLinearSegments = 16;
inline constexpr size_t kMaxLinearTerms = 48;  // of all segments
inline constexpr int kLinearTiles = 5;
struct HopperLinear {
  /// norm_rope() of the heads of queries and keys.
  struct Norm {
    const float* weights[2];  // of queries and of keys, [head_dim]
    const float* cos;         // [rows, head_dim / 2]
    const float* sin;
    float eps;
    /// Of products of e4m3: null, or where queries and keys go as e4m3, [rows, q_columns +
    /// k_columns], with what they are multiplied by; out has all columns, but theirs are not
    /// stored.
    uint8_t* encoded;
    float encodings[2];
  };
  /// Of products of e4m3: a value is the number times the scale of its row.
  struct Scales {
    const float* x;  // [rows], x_stride apart; or one for all rows, with 0
    int64_t x_stride;
    const float* w;  // [columns]
    /// With GELU the result is e4m3, too, and its scales are written to out: [rows]. They are a
    /// bound of a row's values that is known before them: the norm of the row of x times the
    /// largest norm of a weight's row, and the largest bias. e4m3 has floating point, so that a
    /// scale which is some powers of two too large costs nothing.
    const float* x_norms;   // [rows], of the values
    const float* w_bounds;  // [2]: the largest norm of a row, the largest size of a bias
    const float* least;     // null, or a scale that those of the result are not below
    float* out;
    /// With a norm: null, or raised to the largest size of the columns that are neither queries
    /// nor keys, divided by kLargestE4M3.
    float* others;
    /// What changes of the weights add to that bound: see Changes. w_bounds[0] is taken `w_factor`
    /// times, and `more` is added; so are the terms and `added`, by its own scale.
    float w_factor = 1.0f;
    float more = 0.0f;
    const float* added = nullptr;  // [1]: the largest size of Changes::added, by kLargestE4M3
  };
  /// x (up)^T, which is added to the sums of some columns: bf16.
  struct Term {
    const void* x;  // [rows, depth]
    int64_t x_stride;
    const void* up;  // [columns, depth], contiguous
    int64_t depth;   // a multiple of 8
    int64_t begin;   // of the columns
    int64_t columns;
    float up_norm;  // with GELU and e4m3: the largest norm of a row of up
  };
  /// Changes of the weights, for the rows of one segment: the sums are multiplied with `factors`,
  /// then the terms and `added` are added to them.
  struct Changes {
    std::span<const Term> terms = {};
    const float* factors = nullptr;  // null, or [columns]
    const void* added = nullptr;     // null, or [rows, columns], bf16
    int64_t added_stride = 0;

    bool any() const { return !terms.empty() || factors != nullptr || added != nullptr; }
  };
  struct Segment {
    const void* x;  // [rows, depth]
    int64_t x_stride;
    int64_t rows;
    const void* weights;  // [columns, depth], contiguous
    const float* bias;    // null where left out, as gate and residual
    const float* gate;    // only with a residual
    const void* residual;
    int64_t residual_stride;
    Norm norm;      // where q_columns or k_columns is not 0
    Scales scales;  // of e4m3
    void* out;      // may be residual
    int64_t out_stride;
    Changes changes;
  };
  int64_t depth;
  int64_t columns;
  bool e4m3 = false;  // x and the weights; else bf16
  bool gelu = false;  // tanh; not with a residual
  /// The first q_columns are queries and the next k_columns keys, in heads of head_dim, which are
  /// normalised and rotated; both 0: there is no norm. A norm goes with no GELU and no residual.
  int64_t head_dim = 0;
  int64_t q_columns = 0;
  int64_t k_columns = 0;
  std::span<const Segment> segments;
  int tile = -1;  // below kLinearTiles: this shape of tile instead of the best
};
/// Whether sizes are multiples of 8, addresses aligned to 16 bytes, the segments alike and the
/// heads to normalise, if there are any, of 128 columns. Not every shape of tile can do norms.
bool hopper_linear_supports(const HopperLinear& linear);
/// Whether it is faster than cuBLASLt with passes for what follows the products.
bool hopper_linear_is_faster(const HopperLinear& linear, const GpuTraits& gpu);
cudaError_t hopper_linear(const HopperLinear& linear, const GpuTraits& gpu, cudaStream_t stream);

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
cudaError_t binary_rows(Binary op, const BinaryRows& args, DType dtype, cudaStream_t stream);

struct CopyRows {
  const void* x;
  int64_t x_stride;
  void* out;
  int64_t out_stride;
  int64_t rows;
  int64_t columns;
};
/// Converts between f32, bf16 and f16 sources and f32 or bf16 results.
cudaError_t cast_rows(const CopyRows& args, DType from, DType to, cudaStream_t stream);
/// Rows of an encoding (tensor/encoding.h), contiguous -> out: [rows, columns], T, contiguous. The
/// values are those of decode_blocks(), rounded once; columns are whole blocks and a multiple of 8.
struct DecodeRows {
  Encoding encoding;
  const uint8_t* bytes;
  int64_t row_bytes;
  const float* scales;  // of kF8E4M3: null, one, or one for each row
  bool scale_each_row;
  int64_t rows;
  int64_t columns;
  void* out;
};
cudaError_t decode_rows(const DecodeRows& args, DType dtype, cudaStream_t stream);
/// Rows of T -> e4m3. columns are a multiple of 8.
struct EncodeRows {
  const void* x;
  int64_t x_stride;
  int64_t rows;
  int64_t columns;
  uint8_t* out;
  int64_t out_stride;             // a multiple of 8
  float* scales;                  // [rows]: each row's largest size by kLargestE4M3
  float* norms = nullptr;         // null, or [rows]: norms of the values
  float* largest_norm = nullptr;  // null, or raised to the largest of them
  /// Null, or the scales to use, of each row or, with the stride 0, of all; none is written then.
  const float* given = nullptr;
  int64_t given_stride = 0;
};
cudaError_t encode_rows(const EncodeRows& args, DType dtype, cudaStream_t stream);
/// Raises `scale` to the least that suits all values of bf16 rows.
struct LargestRows {
  const void* x;
  int64_t x_stride;
  int64_t rows;
  int64_t columns;
  float* scale;
};
cudaError_t raise_scale(const LargestRows& args, cudaStream_t stream);
/// Raises `largest_norm` to that of the values of e4m3 rows, contiguous, with their scales.
struct E4M3Norms {
  const uint8_t* x;
  const float* scales;
  int64_t rows;
  int64_t columns;
  float* largest_norm;
};
cudaError_t raise_norm(const E4M3Norms& args, cudaStream_t stream);
/// x: [rows, columns] of `from` -> out: [columns, rows] of `to`; contiguous.
cudaError_t transpose(const void* x, int64_t rows, int64_t columns, DType from, void* out, DType to,
                      cudaStream_t stream);

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
cudaError_t group_norm(const GroupNorm& args, DType dtype, cudaStream_t stream);

/// Gathers the inputs of `count` output pixels from `first` on, row by row, for a product with the
/// weights; zero outside the image. out: [count, kernel x kernel x channels], T.
struct Im2col {
  const void* x;  // [height, width, channels]
  int64_t height;
  int64_t width;
  int64_t channels;
  int64_t kernel;
  int64_t scale;      // 2: the input is doubled, nearest neighbour; else 1
  int64_t stride;     // from one output pixel's inputs to the next one's
  int64_t border;     // of zeros before the first row and column
  int64_t out_width;  // output pixels in a row
  int64_t first;
  int64_t count;
  void* out;
};
cudaError_t im2col(const Im2col& args, DType dtype, cudaStream_t stream);

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
cudaError_t make_phase_filters(const float* weights, int64_t out_channels, int64_t in_channels,
                               void* out, cudaStream_t stream);

/// weights [out, in, k, k] -> [out, k, k, in] of one dtype.
cudaError_t reorder_filters(const void* x, int64_t out_channels, int64_t in_channels,
                            int64_t kernel, void* out, DType dtype, cudaStream_t stream);

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
cudaError_t softmax_rows(const SoftmaxRows& args, DType dtype, cudaStream_t stream);

inline constexpr float kLog2E = 1.44269504f;

/// attention() of ops.h in bf16; strides are multiples of 8 and addresses aligned to 16 bytes.
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
  float scale;  // of scores to the base e
  bool causal;
  const float* bias;
  ScoreBase base;
  std::optional<float> bound;  // of AttentionOptions, but for scores to the base e
  /// hopper_attention() alone: null, or the scales of e4m3 in out, of each token or, with the
  /// stride 0, of all.
  const float* out_scales = nullptr;
  int64_t out_scales_stride = 0;
  /// hopper_attention() alone: q, k and v are as encode_heads() and encode_values() make them.
  bool e4m3 = false;
  const float* v_scale = nullptr;  // [1]
};
bool flash_supports(int64_t dim);
cudaError_t flash_attention(const FlashAttention& args, cudaStream_t stream);

/// A faster kernel on Hopper for arguments that it supports, for several sequences at once that
/// share dim, scale, base and bound.
inline constexpr size_t kMaxAttentionSegments = 16;
bool hopper_attention_supports(const FlashAttention& args);
cudaError_t hopper_attention(std::span<const FlashAttention> segments, int multiprocessors,
                             cudaStream_t stream);

/// The heads of a sequence as hopper_attention() wants them in e4m3: of kEncodedDim numbers, zeros
/// after `dim`. Values are [heads, kEncodedDim, encoded_keys(k_tokens)]: the numbers of a column
/// lie together, zeros after the last; key 2 i + j of each 16 is at the place 4 (i % 4) + 2 (i / 4)
/// + j, for j = 0 and 1.
inline constexpr int64_t kEncodedDim = 128;
constexpr int64_t encoded_keys(int64_t k_tokens) { return (k_tokens + 15) / 16 * 16; }
/// Queries or keys of bf16 -> such. dim is a multiple of 8; strides, as FlashAttention's.
struct EncodeHeads {
  const void* x;
  int64_t strides[2];
  int64_t tokens;
  int64_t heads;
  int64_t dim;
  float scale;   // a value is the number times it
  uint8_t* out;  // [tokens, heads, kEncodedDim]
};
cudaError_t encode_heads(const EncodeHeads& args, cudaStream_t stream);
/// Values of bf16 -> such.
struct EncodeValues {
  const void* x;
  int64_t strides[2];
  int64_t tokens;
  int64_t heads;
  int64_t dim;
  const float* scale;
  uint8_t* out;
  int64_t keys;  // encoded_keys(tokens)
};
cudaError_t encode_values(const EncodeValues& args, cudaStream_t stream);

}  // namespace flux::cuda

#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/ops.h"
#include "tensor/dtype.h"

/// The inner loops of the ops, for one thread. Each instruction set has its own build of them;
/// isa.h picks one. Sizes are in elements. T is float or BFloat16.
namespace flux::cpu {

/// Per-feature parameters of a layer norm; null where the norm has none.
struct LayerNormRow {
  const float* weight;
  const float* bias;
  const float* scale;
  const float* shift;
  float eps;
};

/// Mean of a group of values, and the sum of their squared distances from it.
struct Moments {
  float mean;
  float squares;
};

/// What a change of weights makes of the sums of columns [begin, end) of a product, multiples of
/// kTermColumns, which vectors of columns do not cross: sums + scale * (gains * sums + x up).
constexpr int64_t kTermColumns = 64;
template <typename T>
struct TermProduct {
  const T* x = nullptr;  // [rows, rank]
  int64_t x_stride = 0;
  const float* up = nullptr;  // [rank, end - begin]; null: x is [rows, end - begin], added as it is
  const float* gains = nullptr;  // [end - begin]; null: zeros
  int64_t rank = 0;
  int64_t begin = 0;
  int64_t end = 0;
  float scale = 1.0f;

  bool has(int64_t column) const { return column >= begin && column < end; }
};

/// A tile of a product's sums and its epilogue: out = residual + gate * activation(sums + bias).
/// Absent operands are null. Operands may alias as in the ops.
template <typename T>
struct TileEpilogue {
  const float* sums;
  int64_t sums_stride;  // elements between rows
  int64_t rows;
  int64_t columns;
  const float* bias;  // [columns]
  Activation activation;
  const float* gate;  // [columns]
  const T* residual;
  int64_t residual_stride;  // elements between rows
  T* out;
  int64_t out_stride;
  const TermProduct<T>* terms;  // of the whole product, in which the tile begins at
  int64_t term_count;
  int64_t row;
  int64_t column;  // a multiple of the vectors' lanes
};

/// The affine map of a group norm, for each channel.
struct GroupAffine {
  float* mean;
  float* scale;
  float* shift;
};

template <typename T>
struct RowKernels {
  void (*layer_norm)(const T* x, const LayerNormRow& params, int64_t n, T* out);
  void (*rms_norm)(const T* x, const float* weight, float eps, int64_t n, T* out);
  /// Processes one token: `heads` rows of n, `stride` apart, in place. cos and sin hold n values:
  /// an angle's value for both members of its pair, the sine negated for the first.
  void (*rms_norm_rope)(T* x, int64_t heads, int64_t stride, int64_t n, const float* weight,
                        float eps, const float* cos, const float* sin);
  /// moments[groups] of pixels x channels; sums: scratch for `channels` floats.
  void (*group_moments)(const T* x, int64_t pixels, int64_t channels, int64_t groups, float* sums,
                        Moments* moments);
  /// out = activation((x - mean) * scale + shift); mean, scale and shift for each channel.
  void (*group_apply)(const T* x, int64_t pixels, int64_t channels, const GroupAffine& affine,
                      Activation activation, T* out);
  void (*activate)(const T* x, Activation activation, int64_t n, T* out);
  void (*multiply)(const T* a, const T* b, int64_t n, T* out);
  void (*add)(const T* a, const T* b, int64_t n, T* out);
  void (*store_tile)(const TileEpilogue<T>& tile);
};

/// Some query rows of one head, which attend to all its keys.
template <typename T>
struct AttentionTile {
  const T* q;
  int64_t q_stride;                  // between tokens
  int64_t rows;                      // at most AttentionKernels::tile_rows
  int64_t first_row;                 // position of row 0 among the queries
  const std::byte* keys_and_values;  // the head's packed blocks, one after the other
  int64_t k_tokens;
  int64_t head_dim;
  float scale;
  bool causal;
  const float* bias;  // null, or added to row 0's score with key 0; that of row r is r before it
  T* out;
  int64_t out_stride;
  std::byte* scratch;  // scratch_bytes(head_dim), aligned to 64 bytes
};

/// The scheme by which the products of a linear layer are computed.
enum class ProductScheme {
  kPlain,     // a row's result depends on no other row
  kStrassen,  // an eighth fewer multiplications; needs an even depth
};

/// One block of the rows and depth of a linear layer times a strip of its columns, in f32. T is the
/// type that is stored.
template <typename T>
struct ProductStrip {
  ProductScheme scheme;
  const float* rows;  // packed
  const float* left;  // the block's first row in the strip's two packed panels
  const float* right;
  int64_t depth;             // of the block
  bool first;                // block of the depth: there are no sums yet
  bool last;                 // block of the depth: the sums are stored
  float* sums;               // [rows, strip_columns]; of group_rows only if first and last
  TileEpilogue<T> epilogue;  // without sums
  float* scratch;            // scratch_floats(depth), aligned to 64 bytes
};

struct ProductKernels {
  int64_t group_rows;     // rows packed together
  int64_t panel_columns;  // two panels are a strip
  int64_t strip_columns;  // columns packed together
  /// plain: [columns, depth]; columns is at most strip_columns; strip: [2, depth, panel_columns].
  void (*pack_weights)(const float* plain, int64_t columns, int64_t depth, float* strip);
  int64_t (*group_floats)(ProductScheme scheme, int64_t depth);
  void (*pack_rows)(ProductScheme scheme, const float* x, int64_t stride, int64_t rows,
                    int64_t depth, float* group);
  int64_t (*scratch_floats)(int64_t depth);
  void (*run_f32)(const ProductStrip<float>& strip);
  void (*run_bf16)(const ProductStrip<BFloat16>& strip);

  void run(const ProductStrip<float>& strip) const { run_f32(strip); }
  void run(const ProductStrip<BFloat16>& strip) const { run_bf16(strip); }
};

inline constexpr int64_t kInt8Slice =
    512;                                   // of the depth, multiplied while it lies in the L1 cache
inline constexpr int64_t kInt8Block = 32;  // activations that share a scale; weights may at half
inline constexpr int64_t kInt8Columns = 32;  // of a panel
inline constexpr int64_t kInt8Rows = 6;      // multiplied together
inline constexpr int64_t kInt8Blocks = kInt8Slice / kInt8Block;

/// A slice of a row of activations, each block rounded to int8 with a scale of its own. Blocks past
/// the row's end are undefined.
struct alignas(64) Int8Row {
  int8_t values[kInt8Slice];
  float scales[kInt8Blocks];
  float sums[kInt8Blocks];      // of a block's rounded values
  int32_t starts[kInt8Blocks];  // -128 times the sum of `values`: panels hold 128 too much
  // The same of a block's second half.
  float late_sums[kInt8Blocks];
  int32_t late_starts[kInt8Blocks];
};

/// A slice of some columns of encoded weights: (weights - 128) * scale + minimum.
struct alignas(64) Int8Panel {
  uint8_t weights[kInt8Slice / 4][kInt8Columns][4];
  float scales[2 * kInt8Blocks][kInt8Columns];  // one for each `block` weights
  float minima[2 * kInt8Blocks][kInt8Columns];
  int64_t block;    // kInt8Block or half of it
  bool has_minima;  // else `minima` is undefined
};

/// A slice of some rows times one of a panel.
struct Int8Product {
  const Int8Row* rows;  // a multiple of kInt8Rows, those past the last with any values
  const Int8Panel* panel;
  int64_t depth;                    // of the slice
  bool first;                       // slice: there are no sums yet
  bool last;                        // slice: the sums are stored
  float* sums;                      // [rows, kInt8Columns]
  TileEpilogue<BFloat16> epilogue;  // without sums
};

/// Products of encoded weights as dot products of int8. Absent (null) where the processor has none.
struct Int8Kernels {
  /// The number of an encoding's values that share a scale; 0 where it is not multiplied as int8.
  int64_t (*scaled_values)(Encoding encoding);
  /// Rounds a row of n values; its slices are `stride` apart.
  void (*quantize)(const BFloat16* x, int64_t n, Int8Row* slices, int64_t stride);
  /// Unpacks n values, up to a slice, of kInt8Columns encoded rows from `begin` on; scaled_values()
  /// of them are equal.
  void (*unpack)(const Encoding* encodings, const uint8_t* const* columns, int64_t begin, int64_t n,
                 Int8Panel* panel);
  void (*run)(const Int8Product& product);
};

template <typename T>
struct AttentionKernels {
  int64_t tile_rows;
  int64_t block_keys;  // keys that are packed and multiplied together
  /// Bytes of one packed block, a multiple of 64.
  int64_t (*block_bytes)(int64_t head_dim);
  int64_t (*scratch_bytes)(int64_t head_dim);
  /// Packs up to block_keys keys and values, given the strides between tokens.
  void (*pack_block)(const T* k, int64_t k_stride, const T* v, int64_t v_stride, int64_t keys,
                     int64_t head_dim, std::byte* block);
  void (*run)(const AttentionTile<T>& tile);
};

/// Width of a convolution's tile in results.
inline constexpr int64_t kConvTileWidth = 32;

/// One tile of a 3x3 convolution by Winograd's minimal filtering, in f32.
struct WinogradTile {
  const float* input;    // [tile_height + 2, kConvTileWidth + 2, in]
  const float* kernels;  // transformed
  int64_t in;
  int64_t out;
  bool upsampled;  // the input is from an image upsampled 2x by nearest neighbour
  float* sums;     // [tile_height, kConvTileWidth, out]
  float* scratch;  // scratch_floats(in), aligned to 64 bytes
};

/// Kernels are packed as taps in panels of `columns` output channels and transformed before use.
struct WinogradKernels {
  int64_t tile_height;
  int64_t columns;
  int64_t (*tap_elements)(int64_t in, int64_t out);
  int64_t (*panel_floats)(int64_t in);  // of one panel, transformed
  int64_t (*scratch_floats)(int64_t in);
  /// plain: [out, in, 3, 3].
  void (*pack_f32)(const float* plain, int64_t in, int64_t out, float* taps);
  void (*pack_bf16)(const BFloat16* plain, int64_t in, int64_t out, BFloat16* taps);
  /// Transforms one panel.
  void (*transform_f32)(const float* taps, int64_t in, float* kernels);
  void (*transform_bf16)(const BFloat16* taps, int64_t in, float* kernels);
  void (*run)(const WinogradTile& tile);
};

/// Decodes n values of a row (whole blocks) of an encoding, times `scale`: decode_blocks(), rounded
/// once.
struct DecodeKernels {
  void (*f32)(Encoding encoding, const uint8_t* source, int64_t n, float scale, float* out);
  void (*bf16)(Encoding encoding, const uint8_t* source, int64_t n, float scale, BFloat16* out);
};

struct Kernels {
  const char* name;
  RowKernels<float> rows_f32;
  RowKernels<BFloat16> rows_bf16;
  AttentionKernels<float> attention_f32;
  AttentionKernels<BFloat16> attention_bf16;
  WinogradKernels winograd;
  ProductKernels products;
  DecodeKernels decode;
  Int8Kernels int8;

  template <typename T>
  const RowKernels<T>& rows() const {
    if constexpr (sizeof(T) == sizeof(float)) {
      return rows_f32;
    } else {
      return rows_bf16;
    }
  }
  template <typename T>
  const AttentionKernels<T>& attention() const {
    if constexpr (sizeof(T) == sizeof(float)) {
      return attention_f32;
    } else {
      return attention_bf16;
    }
  }
};

}  // namespace flux::cpu

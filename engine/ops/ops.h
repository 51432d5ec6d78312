#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "ops/precision.h"
#include "runtime/context.h"
#include "runtime/transfer.h"
#include "tensor/encoding.h"
#include "tensor/tensor.h"

/// The operations models are made of. Each checks its arguments (kInternal on a mismatch: models
/// validate what comes from users) and runs on the context's device.
///
/// Conventions. Activations are f32 or bf16 and share one dtype T in each call; sums, norms and
/// softmax are computed in f32 and rounded once when stored. `out` comes last, is written whole
/// and may alias an input only where said. Rows may be strided where said; otherwise tensors are
/// contiguous. The result for a row does not depend on other rows or on the thread count.
namespace flux {

/// The number of tokens up to which the context's device computes sequences faster together than
/// one by one; 0 where it never does.
int64_t useful_tokens(const Context& ctx);

enum class Activation {
  kNone,
  kGeluTanh,   // 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
  kGeluErf,    // 0.5 x (1 + erf(x / sqrt(2)))
  kQuickGelu,  // x sigmoid(1.702 x)
  kSilu,       // x sigmoid(x)
  kRelu,
};

/// A weight in the layout that a device's kernels want. Immutable and shared.
class PackedWeights {
 public:
  virtual ~PackedWeights() = default;
  /// Memory it holds.
  virtual int64_t bytes() const = 0;
  /// Whether the rows that are multiplied with it may be e4m3; see RowScales.
  virtual bool takes_e4m3() const { return false; }
};

/// What goes with rows of e4m3, tensors of dtype u8: a value is the number times the scale of its
/// row. Source: OCP's 8-bit floating point format E4M3.
struct RowScales {
  Tensor scales;  // [rows], f32, or [1]: of all rows
  Tensor norms;   // [rows], f32, of the values: for linears whose result is e4m3, too

  RowScales slice(int64_t begin, int64_t end) const {
    const auto part = [&](const Tensor& all) {
      return all.defined() && all.size(0) > 1 ? all.slice(0, begin, end) : all;
    };
    return {part(scales), part(norms)};
  }
};

/// Weights of y = x W^T + b.
struct LinearWeights {
  int64_t in_features = 0;
  int64_t out_features = 0;
  DType dtype = DType::kF32;  // of the weight and of the activations
  std::shared_ptr<const PackedWeights> packed;

  bool takes_e4m3() const { return packed != nullptr && packed->takes_e4m3(); }
};

/// Packs linear weights. `weights`: one or more [n_i, in_features] tensors of any float dtype or
/// encoding, in host memory, stacked along the output: where one is encoded, all stay as they are
/// stored, and are decoded into `dtype` for each product; `biases`: empty, or for each weight a
/// [n_i] tensor or an undefined one (no bias). `dtype`: f32 or bf16. With kFp8 weights that are not
/// e4m3 as stored are made so. The sources are not needed afterwards.
LinearWeights pack_linear(Context& ctx, std::span<const StoredTensor> weights,
                          std::span<const ConstTensor> biases, DType dtype,
                          Quantization quantization = Quantization::kNone);

/// A change to a linear's weights that holds for some of the rows that they are multiplied with. It
/// concerns the outputs from `begin` on, of which W becomes W + scale * (gains W + P). P is
///   of low rank: up down;
///   whole, where there is neither `up` nor `outer`: down;
///   a Kronecker product: rows [first, first + out_features) of outer (x) down.
struct WeightChange {
  int64_t begin = 0;
  int64_t out_features = 0;
  LinearWeights down;                       // not packed: down x is 1, the change is of a bias
  std::shared_ptr<const PackedWeights> up;  // and the gains, where there are some
  ConstTensor outer = {};                   // [outer rows, outer columns], f32
  int64_t first = 0;

  int64_t rank() const { return down.out_features; }
  int64_t bytes() const {
    return (down.packed ? down.packed->bytes() : 0) + (up ? up->bytes() : 0) +
           (outer.defined() ? outer.bytes() : 0);
  }
};

/// Packs a change of low rank. down: [rank, in_features], up: [out_features, rank], of any float
/// dtype, in host memory; both are rounded to `dtype`, f32 or bf16, that of the linear's
/// activations. gains: optional [out_features], f32, on the host. An undefined `up`: `down` is the
/// whole change, [out_features, in_features], and there are no gains. Throws kUnsupported for a
/// device that has no such products; so do the two below.
WeightChange pack_low_rank(Context& ctx, const ConstTensor& down, const ConstTensor& up,
                           const ConstTensor& gains, int64_t begin, DType dtype);
/// Packs rows [first, first + rows) of the Kronecker product of `outer` and `inner`, matrices of
/// any float dtype in host memory. `inner` is rounded to `dtype`.
WeightChange pack_kronecker(Context& ctx, const ConstTensor& outer, const ConstTensor& inner,
                            int64_t first, int64_t rows, int64_t begin, DType dtype);
/// Packs a change of a bias: [out_features], of any float dtype, in host memory.
WeightChange pack_bias_change(Context& ctx, const ConstTensor& bias, int64_t in_features,
                              int64_t begin, DType dtype);

/// A change that a linear's product has. x (down^T) is rounded to T, as are the results of a change
/// that is whole or a Kronecker product; all else is part of the sums.
struct WeightTerm {
  const WeightChange* weights = nullptr;
  float scale = 1.0f;
};
/// Those of a part at most.
inline constexpr size_t kMaxWeightTerms = 48;

/// Rotary position angles for one sequence.
struct RopeTable {
  ConstTensor cos;  // [tokens, head_dim / 2], f32
  ConstTensor sin;
};

/// RMSNorm and rotation, rms_norm_rope(), of the query and key columns of a linear's result
/// [rows, q_heads x head_dim | k_heads x head_dim | others], which are stored as they are. The
/// result is rounded to T before the norm, too.
struct HeadNorm {
  ConstTensor weight_q;  // [head_dim], f32
  ConstTensor weight_k;
  float eps = 1e-6f;
  RopeTable rope;  // of the rows
  int64_t q_heads = 0;
  int64_t k_heads = 0;
  /// Optional [1], f32, with weights that take e4m3: raised to the least scale that suits the other
  /// columns.
  Tensor others_scale = {};
  /// Optional, with weights that take e4m3 where Kernels::encodes_heads(): queries and keys go here
  /// as e4m3 of one scale each, in place of out, which has the other columns alone.
  struct Encoded {
    Tensor numbers;  // [rows, (q_heads + k_heads) x head_dim], u8
    float q_scale = 1.0f;
    float k_scale = 1.0f;
  };
  std::optional<Encoded> encoded = std::nullopt;

  int64_t head_dim() const { return weight_q.size(0); }
};

/// The operations on a linear's result before it is stored:
/// out = residual + gate * activation(x W^T + b), or the head norm of x W^T + b.
struct Epilogue {
  Activation activation = Activation::kNone;
  ConstTensor gate;      // optional [out_features], f32
  ConstTensor residual;  // optional [rows, out_features], T, rows may be strided; may alias out
  std::optional<HeadNorm> norm = std::nullopt;  // goes with none of the others
  /// Optional [1], f32, where out is e4m3: the scales of its rows are not below.
  ConstTensor least_scale = {};
};

/// x: [rows, in], T, rows may be strided; out: [rows, out_features], T, rows may be strided. Up to
/// 64 rows have the bits that each has alone; of more, f32 rounds in a way that depends on all.
void linear(Context& ctx, const ConstTensor& x, const LinearWeights& weights,
            const Epilogue& epilogue, const Tensor& out);

/// One of several linears that none of the others depends on. Where the weights take it, x may be
/// e4m3 (T is encoded by the op), and out, too, with GELU and a bias: then x_scales need norms.
struct LinearPart {
  ConstTensor x;
  const LinearWeights* weights = nullptr;
  Epilogue epilogue;
  Tensor out;
  RowScales x_scales = {};    // of x, where it is e4m3
  RowScales out_scales = {};  // written: scales alone
  /// Added to x W^T before the epilogue. The bits of a part do not depend on those of others.
  std::vector<WeightTerm> terms = {};
};
/// All parts, which a device may compute together. They are alike: in features, activation, in
/// whether they have a gate, a residual and a norm, and in its heads. The result of a part does not
/// depend on the others.
void linear(Context& ctx, std::span<const LinearPart> parts);

/// The height and width of a convolution's result, and what it reads beyond its image's edges.
enum class ConvSize {
  kSame,     // zeros all around: those of the input
  kDoubled,  // the input is first doubled, nearest neighbour. Source: diffusers' Upsample2D
  kHalved,   // every second pixel, zeros below and to the right alone. Source: its Downsample2D
};
/// A side of the result where the input's is `side`, which is even where it is halved.
constexpr int64_t conv_side(ConvSize size, int64_t side) {
  return size == ConvSize::kDoubled ? 2 * side : size == ConvSize::kHalved ? side / 2 : side;
}

/// Weights of a 2-d convolution with a square odd kernel.
struct Conv2dWeights {
  int64_t in_channels = 0;
  int64_t out_channels = 0;
  int64_t kernel = 0;
  DType dtype = DType::kF32;
  ConvSize size = ConvSize::kSame;
  std::shared_ptr<const PackedWeights> packed;
};

/// weight: [out, in, k, k] of any float dtype; bias: [out].
Conv2dWeights pack_conv2d(Context& ctx, const ConstTensor& weight, const ConstTensor& bias,
                          DType dtype, ConvSize size = ConvSize::kSame);

/// x: [h, w, in], T, channels last; out: [h', w', out_channels], T; sides by conv_side().
/// residual: optional, added to the result; shaped like out; may alias it.
void conv2d(Context& ctx, const ConstTensor& x, const Conv2dWeights& weights,
            const ConstTensor& residual, const Tensor& out);

/// y = (x - mean) / sqrt(var + eps) over the last dimension, then * weight + bias (affine, each
/// optional [n] f32) and then * (1 + scale) + shift (modulation, both or none, [n] f32).
struct LayerNormParams {
  ConstTensor weight;
  ConstTensor bias;
  ConstTensor scale;
  ConstTensor shift;
  float eps = 1e-6f;
};
/// x, out: [rows, n], T; rows may be strided; out may be x.
void layer_norm(Context& ctx, const ConstTensor& x, const LayerNormParams& params,
                const Tensor& out);

/// One of several layer norms of as many columns that none of the others depends on.
struct LayerNormPart {
  ConstTensor x;
  LayerNormParams params;
  Tensor out;  // T; or e4m3, where out_scales are given, which are written
  RowScales out_scales = {};
};
/// All parts, which a device may compute together.
void layer_norm(Context& ctx, std::span<const LayerNormPart> parts);

/// y = x / sqrt(mean(x^2) + eps) * weight ([n], f32). x, out: [rows, n], T; out may be x.
void rms_norm(Context& ctx, const ConstTensor& x, const ConstTensor& weight, float eps,
              const Tensor& out);

/// The axes of rotary positions: axis a rotates dims[a] / 2 pairs, pair i by
/// position / theta^(2 i / dims[a]), computed in f64.
struct RopeAxes {
  std::span<const int64_t> dims;
  double theta = 10000.0;
};
/// The angles of `positions` ([tokens, axes], f32). out: [tokens, sum of dims / 2], contiguous.
/// Source: diffusers' FluxPosEmbed; Su et al., RoFormer (2021).
void rope_angles(Context& ctx, const ConstTensor& positions, const RopeAxes& axes,
                 const Tensor& cos, const Tensor& sin);

/// FLUX's query and key preparation, in place: RMSNorm over head_dim with `weight` ([head_dim],
/// f32), then the rotation of interleaved pairs (x0, x1) -> (x0 cos - x1 sin, x1 cos + x0 sin).
/// x: [tokens, heads, head_dim], T, strided. Source: diffusers' FluxAttnProcessor.
void rms_norm_rope(Context& ctx, const Tensor& x, const ConstTensor& weight, float eps,
                   const RopeTable& rope);

/// The base that scores are exponents of.
enum class ScoreBase { kE, kTwo };

/// The softmax of attention. A device's fastest softmax takes two to the power of each score, with
/// neither a scale nor the maximum of its row: f32 and bf16 are as exact for large and small
/// weights as for weights up to one, so only overflow stands against it. A model makes that
/// possible by two options: with kTwo its queries already contain the factor 1 / (kLn2
/// sqrt(head_dim)), so that scores are exponents of two as they are; with a bound it tells how
/// large they can be, which norms of queries and keys allow it to know (layers/qk_norm.h). A device
/// compares the bound with the range of f32, and takes the maxima where the bound is too large or
/// there is none; it may ignore both options, as the CPU does.
struct AttentionOptions {
  static constexpr float kLn2 = 0.693147181f;

  ScoreBase base = ScoreBase::kE;
  float scale = 1.0f;  // of the products q k; 1 with kTwo
  bool causal = false;
  /// Optional [heads, q_tokens + k_tokens - 1] f32, added to the scaled scores, not with kTwo:
  /// entry (k - q + q_tokens - 1) for key position k and query position q.
  ConstTensor relative_bias;
  std::optional<float> bound;  // no scaled score exceeds it in size; left out where not known
  /// Queries, keys and values may be rounded to e4m3, and so may the weights of values; a device
  /// may ignore it. No element of q exceeds 448 q_scale in size, none of k 448 k_scale.
  struct E4M3 {
    float q_scale;
    float k_scale;
  };
  std::optional<E4M3> e4m3;

  /// The scale that gives the same softmax to the base e.
  float natural_scale() const { return base == ScoreBase::kTwo ? kLn2 : scale; }
};

/// softmax(scale q k^T + bias) v, to the base of the options, head by head, without storing the
/// scores whole.
/// q: [q_tokens, heads, d]; k, v: [k_tokens, heads, d]; out: [q_tokens, heads, d]; T, strided over
/// tokens and heads; out must not alias an input.
void attention(Context& ctx, const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
               const AttentionOptions& options, const Tensor& out);

/// One of several sequences that attend each to itself; they agree in heads and head_dim.
struct AttentionPart {
  ConstTensor q;  // with AttentionOptions::e4m3, q and k may be e4m3 of those scales
  ConstTensor k;
  ConstTensor v;
  Tensor out;                   // T; or e4m3, where out_scales are given
  ConstTensor out_scales = {};  // [q_tokens] or [1], f32, of tokens; not below that of v
  /// [1], f32: the least that suits v as e4m3; where it is undefined and wanted, it is found.
  ConstTensor v_scale = {};
};
/// All parts, which a device may compute together.
void attention(Context& ctx, std::span<const AttentionPart> parts, const AttentionOptions& options);

/// Group normalisation over channels-last images, then an optional activation (none or SiLU).
struct GroupNormParams {
  ConstTensor weight;  // [channels], f32
  ConstTensor bias;    // [channels], f32
  int64_t groups = 1;
  float eps = 1e-6f;
  Activation activation = Activation::kNone;
};
/// x, out: [pixels, channels] or [h, w, channels], T, contiguous; out may be x.
void group_norm(Context& ctx, const ConstTensor& x, const GroupNormParams& params,
                const Tensor& out);

/// One step of latents from a noise level to the next. Sources: diffusers'
/// FlowMatchEulerDiscreteScheduler.step, FluxPipeline.__call__.
struct EulerStep {
  float delta = 0;         // sigma_next - sigma
  ConstTensor prediction;  // shaped as the latents, T
  ConstTensor negative;    // optional: the prediction for the negative prompt (true CFG)
  float cfg_scale = 1.0f;
};
/// latents += delta x noise in place, where noise is the prediction, or with a negative one
/// negative + cfg_scale x (prediction - negative); delta and every result are rounded to T.
void euler_step(Context& ctx, const Tensor& latents, const EulerStep& step);

/// out = packed / divisor + shift, each rounded to T. packed: [h / 2 x w / 2, 4 channels], a token
/// for 2 x 2 latents; out: [channels, h, w]. Source: FluxPipeline._unpack_latents and __call__.
void unpack_tokens(Context& ctx, const ConstTensor& packed, float divisor, float shift,
                   const Tensor& out);

/// Latents of a noise level: of an image that has some of the noise.
struct NoisedImage {
  ConstTensor image;  // shaped as the latents, T, as all of these
  ConstTensor noise;
  float sigma = 1.0f;     // the noise's part, 0 to 1
  ConstTensor mask = {};  // optional; 0 or 1: latents that are 1 here keep what they hold
};
/// latents = sigma x noise + (1 - sigma) x image, where sigma and every result are rounded to T.
/// Sources: diffusers' FlowMatchEulerDiscreteScheduler.scale_noise, FluxInpaintPipeline.__call__.
void scale_noise(Context& ctx, const Tensor& latents, const NoisedImage& noised);

/// (x / 2 + 0.5) clamped to [0, 1], times 255, rounded half to even. x: [3, h, w], f32; out:
/// [h, w, 3], u8. NaN becomes 0. Source: diffusers' VaeImageProcessor.
void to_bytes(Context& ctx, const ConstTensor& x, const Tensor& out);

/// out = activation(x); any shape, contiguous; out may be x.
void activate(Context& ctx, const ConstTensor& x, Activation activation, const Tensor& out);

/// out = a * b element by element; [rows, n], T, rows may be strided; out may be a or b.
void multiply(Context& ctx, const ConstTensor& a, const ConstTensor& b, const Tensor& out);

/// out = a + b element by element; as multiply.
void add(Context& ctx, const ConstTensor& a, const ConstTensor& b, const Tensor& out);

/// out = x^T; x: [m, n], T; out: [n, m], T or f32; contiguous; out must not alias x.
void transpose(Context& ctx, const ConstTensor& x, const Tensor& out);

/// Copies x to out, rounding to out's dtype (f32 or bf16); same shape, rows may be strided.
void cast(Context& ctx, const ConstTensor& x, const Tensor& out);

/// Rows of `table` ([vocabulary, n], f32, bf16, f16 or encoded, in host memory) picked by `ids`;
/// out: [ids.size(), n], T, contiguous. Ids are checked: kInternal when one is outside the table.
void embedding(Context& ctx, const StoredTensor& table, std::span<const int32_t> ids,
               const Tensor& out);

}  // namespace flux

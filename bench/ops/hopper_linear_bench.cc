// Times FLUX.1's linears on a Hopper GPU: our kernel with each shape of tile against cuBLASLt with
// the passes that it needs afterwards, and compares the results. Each is repeated for SECONDS, so
// that the GPU is at its power limit as in a whole image: then energy is time.
//   hopper_linear_bench [SECONDS [NAME [e4m3]]]     NAME: only cases whose names contain it
// With e4m3 our kernel multiplies that, rows of x and of the weights having scales; the error is
// then what e4m3 costs.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "bench/ops/bf16_values.h"
#include "bench/ops/gpu_measure.h"
#include "ops/cuda/cublas.h"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/state.h"

namespace flux::cuda {
namespace {

enum class Kind { kBias, kGelu, kResidual, kNorm };

constexpr int64_t kHeadDim = 128;

struct Case {
  const char* name;
  std::vector<int64_t> rows;  // of each segment
  int64_t columns;
  int64_t depth;
  Kind kind;
};

/// One case: its tensors, and the ways to compute it.
class Linear {
 public:
  Linear(State& state, const Case& c, bool e4m3)
      : state_(state),
        case_(c),
        e4m3_(e4m3),
        rows_(total(c.rows)),
        x_(rows_ * c.depth),
        w_(static_cast<int64_t>(c.rows.size()) * c.columns * c.depth),
        rounded_(c.columns),
        bias_(c.columns),
        gate_(c.columns),
        weights_(static_cast<int64_t>(c.rows.size()) * 2 * kHeadDim),
        cos_(rows_ * kHeadDim / 2),
        sin_(rows_ * kHeadDim / 2),
        residual_(rows_ * c.columns),
        sums_(rows_ * c.columns),
        expected_(rows_ * c.columns),
        found_(rows_ * c.columns),
        encoded_x_(rows_ * c.depth),
        encoded_w_(w_.size()),
        encoded_(rows_ * c.columns),
        x_scales_(rows_),
        x_norms_(rows_),
        w_scales_(static_cast<int64_t>(c.rows.size()) * c.columns),
        bounds_(2),
        out_scales_(rows_) {
    fill_bf16(x_.get(), x_.size(), 1.0f, 1);
    fill_bf16(w_.get(), w_.size(), 1.0f / std::sqrt(static_cast<float>(c.depth)), 2);
    fill_bf16(residual_.get(), residual_.size(), 1.0f, 3);
    fill_bf16(rounded_.get(), rounded_.size(), 0.1f, 4);
    fill_floats(bias_, rounded_);
    fill_floats(gate_, residual_);
    fill_floats(weights_, residual_);
    fill_floats(cos_, residual_);
    fill_floats(sin_, x_);
    cudaMemset(bounds_.get(), 0, 2 * sizeof(float));
    encode(x_, c.depth, encoded_x_, x_scales_, x_norms_.get(), nullptr);
    encode(w_, c.depth, encoded_w_, w_scales_, nullptr, bounds_.get());
    check_cuda(cudaDeviceSynchronize(), "filling");
  }

  /// Whether our kernel can do it in such tiles.
  bool has(int tile) const {
    const std::vector<HopperLinear::Segment> segments = make_segments();
    return hopper_linear_supports(make_linear(segments, tile));
  }

  double teraflop() const {
    return 2e-12 * static_cast<double>(rows_ * case_.columns * case_.depth);
  }

  void library() {
    int64_t first = 0;
    for (size_t i = 0; i < case_.rows.size(); ++i) {
      Product product;
      product.dtype = product.out_dtype = DType::kBF16;
      product.rows = case_.rows[i];
      product.columns = case_.columns;
      product.depth = case_.depth;
      product.x = x_.get() + first * case_.depth;
      product.x_stride = case_.depth;
      product.w = w_.get() + static_cast<int64_t>(i) * case_.columns * case_.depth;
      product.w_stride = case_.depth;
      const bool gated = case_.kind == Kind::kResidual;
      uint16_t* out = expected_.get() + first * case_.columns;
      uint16_t* sums = sums_.get() + first * case_.columns;
      product.out = gated ? sums : out;
      product.out_stride = case_.columns;
      product.bias = rounded_.get();
      product.epilogue =
          case_.kind == Kind::kGelu ? ProductEpilogue::kBiasGeluTanh : ProductEpilogue::kBias;
      multiply(state_, product);
      if (gated) {
        StoreRows store{};
        store.sums = sums;
        store.sums_stride = case_.columns;
        store.rows = case_.rows[i];
        store.columns = case_.columns;
        store.gate = gate_.get();
        store.residual = residual_.get() + first * case_.columns;
        store.residual_stride = case_.columns;
        store.out = out;
        store.out_stride = case_.columns;
        check_cuda(store_rows(store, DType::kBF16, state_.stream()), "store_rows");
      }
      if (case_.kind == Kind::kNorm) norm_in_passes(i, first, out);
      first += case_.rows[i];
    }
  }

  void ours(int tile) {
    const std::vector<HopperLinear::Segment> segments = make_segments();
    check_cuda(hopper_linear(make_linear(segments, tile), state_.traits(), state_.stream()),
               "hopper_linear");
  }

  void report(const Meter& meter, double seconds) {
    std::printf("%-16s", case_.name);
    for (int way = -1; way < kLinearTiles; ++way) {
      if (way >= 0 && !has(way)) {
        std::printf(" %7s %3s %3s", "-", "-", "-");
        continue;
      }
      const auto run = [&] { way < 0 ? library() : ours(way); };
      const Cost cost = measure(meter, state_.stream(), seconds, teraflop(), run);
      std::printf(" %7.1f %3.0f %3.0f", cost.ms * 1e3, teraflop() / cost.ms * 1e3, cost.mj);
    }
    double different = 0;
    double error = 0;
    bool first = true;
    for (int tile = 0; tile < kLinearTiles; ++tile) {
      if (!has(tile)) continue;
      cudaMemset(found_.get(), 0xff, static_cast<size_t>(found_.size()) * sizeof(uint16_t));
      cudaDeviceSynchronize();
      ours(tile);
      if (encodes()) decode_result();
      cudaStreamSynchronize(state_.stream());
      error = std::max(error, compare_bf16(found_.get(), expected_.get(), found_.size()).error);
      // Of a norm that the library's passes made all bits are the same, too.
      const bool passes = case_.kind == Kind::kNorm && !e4m3_;
      const uint16_t* same = passes && first ? expected_.get() : sums_.get();
      if (!first || passes) {
        different = std::max(different, compare_bf16(found_.get(), same, found_.size()).other_bits);
      }
      first = false;
      cudaMemcpy(sums_.get(), found_.get(), static_cast<size_t>(found_.size()) * sizeof(uint16_t),
                 cudaMemcpyDefault);
      cudaDeviceSynchronize();
    }
    std::printf(" | error %.1e, %.4f other bits\n", error, different);
    std::fflush(stdout);
  }

 private:
  /// Whether the result is e4m3.
  bool encodes() const { return e4m3_ && case_.kind == Kind::kGelu; }
  static void encode(const Buffer<uint16_t>& values, int64_t depth, const Buffer<uint8_t>& to,
                     const Buffer<float>& scales, float* norms, float* largest_norm) {
    const EncodeRows args{.x = values.get(),
                          .x_stride = depth,
                          .rows = values.size() / depth,
                          .columns = depth,
                          .out = to.get(),
                          .out_stride = depth,
                          .scales = scales.get(),
                          .norms = norms,
                          .largest_norm = largest_norm};
    check_cuda(encode_rows(args, DType::kBF16, nullptr), "encode_rows");
  }
  void decode_result() {
    const DecodeRows args{Encoding::kF8E4M3, encoded_.get(), case_.columns,
                          out_scales_.get(), true,           rows_,
                          case_.columns,     found_.get()};
    check_cuda(decode_rows(args, DType::kBF16, state_.stream()), "decode_rows");
  }

  /// The first values as floats.
  static void fill_floats(const Buffer<float>& to, const Buffer<uint16_t>& values) {
    if (values.size() < to.size()) throw std::runtime_error("there are too few values");
    const CopyRows args{values.get(), to.size(), to.get(), to.size(), 1, to.size()};
    check_cuda(cast_rows(args, DType::kBF16, DType::kF32, nullptr), "cast_rows");
  }

  HopperLinear::Norm norm_of(size_t segment, int64_t first_row) const {
    const float* weights = weights_.get() + static_cast<int64_t>(segment) * 2 * kHeadDim;
    const int64_t angles = first_row * kHeadDim / 2;
    return {{weights, weights + kHeadDim}, cos_.get() + angles, sin_.get() + angles, 1e-6f};
  }

  void norm_in_passes(size_t segment, int64_t first_row, uint16_t* out) {
    const HopperLinear::Norm norm = norm_of(segment, first_row);
    for (int i = 0; i < 2; ++i) {
      const NormRope args{.x = out + i * case_.columns / 3,
                          .tokens = case_.rows[segment],
                          .heads = case_.columns / 3 / kHeadDim,
                          .dim = kHeadDim,
                          .token_stride = case_.columns,
                          .head_stride = kHeadDim,
                          .weight = norm.weights[i],
                          .eps = norm.eps,
                          .cos = norm.cos,
                          .sin = norm.sin};
      check_cuda(norm_rope(args, DType::kBF16, state_.stream()), "norm_rope");
    }
  }

  std::vector<HopperLinear::Segment> make_segments() const {
    std::vector<HopperLinear::Segment> segments;
    int64_t first = 0;
    for (size_t i = 0; i < case_.rows.size(); ++i) {
      HopperLinear::Segment segment{};
      segment.x = x_.get() + first * case_.depth;
      segment.x_stride = case_.depth;
      segment.rows = case_.rows[i];
      segment.weights = w_.get() + static_cast<int64_t>(i) * case_.columns * case_.depth;
      segment.bias = bias_.get();
      if (case_.kind == Kind::kResidual) {
        segment.gate = gate_.get();
        segment.residual = residual_.get() + first * case_.columns;
        segment.residual_stride = case_.columns;
      }
      if (case_.kind == Kind::kNorm) segment.norm = norm_of(i, first);
      segment.out = found_.get() + first * case_.columns;
      segment.out_stride = case_.columns;
      if (e4m3_) {
        segment.x = encoded_x_.get() + first * case_.depth;
        segment.weights = encoded_w_.get() + static_cast<int64_t>(i) * case_.columns * case_.depth;
        segment.scales = {.x = x_scales_.get() + first,
                          .x_stride = 1,
                          .w = w_scales_.get() + static_cast<int64_t>(i) * case_.columns,
                          .x_norms = x_norms_.get() + first,
                          .w_bounds = bounds_.get(),
                          .least = nullptr,
                          .out = out_scales_.get() + first,
                          .others = nullptr};
        if (encodes()) segment.out = encoded_.get() + first * case_.columns;
      }
      segments.push_back(segment);
      first += case_.rows[i];
    }
    return segments;
  }

  HopperLinear make_linear(std::span<const HopperLinear::Segment> segments, int tile) const {
    return {.depth = case_.depth,
            .columns = case_.columns,
            .e4m3 = e4m3_,
            .gelu = case_.kind == Kind::kGelu,
            .head_dim = kHeadDim,
            .q_columns = case_.kind == Kind::kNorm ? case_.columns / 3 : 0,
            .k_columns = case_.kind == Kind::kNorm ? case_.columns / 3 : 0,
            .segments = segments,
            .tile = tile};
  }

  static int64_t total(const std::vector<int64_t>& rows) {
    int64_t sum = 0;
    for (const int64_t count : rows) sum += count;
    return sum;
  }

  State& state_;
  const Case& case_;
  bool e4m3_;
  int64_t rows_;
  Buffer<uint16_t> x_, w_, rounded_;
  Buffer<float> bias_, gate_, weights_, cos_, sin_;
  Buffer<uint16_t> residual_, sums_, expected_, found_;
  Buffer<uint8_t> encoded_x_, encoded_w_, encoded_;
  Buffer<float> x_scales_, x_norms_, w_scales_, bounds_, out_scales_;
};

const Case kCases[] = {
    {"1024 single qkv", {4608}, 9216, 3072, Kind::kNorm},
    {"without norm", {4608}, 9216, 3072, Kind::kBias},
    {"1024 single mlp", {4608}, 12288, 3072, Kind::kGelu},
    {"1024 single out", {4608}, 3072, 15360, Kind::kResidual},
    {"1024 double qkv", {512, 4096}, 9216, 3072, Kind::kNorm},
    {"1024 double out", {512, 4096}, 3072, 3072, Kind::kResidual},
    {"1024 double up", {512, 4096}, 12288, 3072, Kind::kGelu},
    {"1024 double down", {512, 4096}, 3072, 12288, Kind::kResidual},
    {"512 single qkv", {1536}, 9216, 3072, Kind::kNorm},
    {"512 single mlp", {1536}, 12288, 3072, Kind::kGelu},
    {"512 single out", {1536}, 3072, 15360, Kind::kResidual},
    {"512 double qkv", {512, 1024}, 9216, 3072, Kind::kNorm},
    {"without norm", {512, 1024}, 9216, 3072, Kind::kBias},
    {"512 double out", {512, 1024}, 3072, 3072, Kind::kResidual},
    {"512 double up", {512, 1024}, 12288, 3072, Kind::kGelu},
    {"512 double down", {512, 1024}, 3072, 12288, Kind::kResidual},
    {"256 single out", {768}, 3072, 15360, Kind::kResidual},
    {"256 double up", {512, 256}, 12288, 3072, Kind::kGelu},
    {"odd", {77, 200, 300}, 1000, 456, Kind::kResidual},
    {"odd heads", {77, 66, 200, 300}, 1152, 456, Kind::kNorm},
    {"one head", {65, 577}, 384, 64, Kind::kNorm},
};

void run(double seconds, const std::string& name, bool e4m3) {
  State state(0, hopper_traits());
  const Meter meter;
  std::printf(
      "us, TFLOP/s and mJ of cuBLASLt, and of tiles of 192x192 side by side, 192x192, 128x256,\n"
      "128x192 and 128x128 below one another; the error against cuBLASLt, and the share of\n"
      "elements with other bits than the tile before, of a norm than cuBLASLt and its passes\n");
  for (const Case& c : kCases) {
    if (std::string(c.name).find(name) == std::string::npos) continue;
    Linear linear(state, c, e4m3);
    const auto library = [&] { linear.library(); };  // the GPU is then as warm as later
    measure(meter, state.stream(), 2 * seconds, linear.teraflop(), library);
    linear.report(meter, seconds);
  }
}

}  // namespace
}  // namespace flux::cuda

int main(int argc, char** argv) {
  try {
    flux::cuda::run(argc > 1 ? std::atof(argv[1]) : 0.5, argc > 2 ? argv[2] : "",
                    argc > 3 && std::string(argv[3]) == "e4m3");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "hopper_linear_bench: %s\n", error.what());
    return 1;
  }
  return 0;
}

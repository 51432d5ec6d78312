#include "ops/cpu/winograd.h"

#include "ops/cpu/isa.h"

namespace flux::cpu {
namespace {

constexpr int64_t kLeastChannels = 16;

constexpr auto kFloatSize = static_cast<int64_t>(sizeof(float));

/// The kernels are those in use when it is made: packed weights fit no others.
class WinogradTileKernel final : public TileKernel {
 public:
  explicit WinogradTileKernel(const ConvolutionShape& shape)
      : in_(shape.in), out_(shape.out), kernels_(kernels().winograd) {}

  int64_t scratch_bytes() const override { return kernels_.scratch_floats(in_) * kFloatSize; }

  void run(const void* x, const void* weights, float* sums, void* scratch) const override {
    kernels_.run({static_cast<const float*>(x), static_cast<const float*>(weights), in_, out_, sums,
                  static_cast<float*>(scratch)});
  }

 private:
  int64_t in_;
  int64_t out_;
  const WinogradKernels& kernels_;
};

class WinogradPacker final : public WeightPacker {
 public:
  explicit WinogradPacker(const ConvolutionShape& shape)
      : in_(shape.in), out_(shape.out), kernels_(kernels().winograd) {}

  int64_t packed_bytes() const override { return kernels_.packed_floats(in_, out_) * kFloatSize; }

  void pack(const void* plain, void* packed) const override {
    kernels_.pack(static_cast<const float*>(plain), in_, out_, static_cast<float*>(packed));
  }

 private:
  int64_t in_;
  int64_t out_;
  const WinogradKernels& kernels_;
};

}  // namespace

bool winograd_suits(const ConvolutionShape& shape) {
  return shape.dtype == DType::kF32 && shape.kernel == 3 && shape.in >= kLeastChannels &&
         shape.out >= kLeastChannels && shape.width == kernels().winograd.tile_width;
}

int64_t winograd_tile_height() { return kernels().winograd.tile_height; }

std::shared_ptr<const TileKernel> winograd_tile_kernel(const ConvolutionShape& shape) {
  return std::make_shared<WinogradTileKernel>(shape);
}

std::unique_ptr<WeightPacker> winograd_weight_packer(const ConvolutionShape& shape) {
  return std::make_unique<WinogradPacker>(shape);
}

}  // namespace flux::cpu

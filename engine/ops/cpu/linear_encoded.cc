#include <cstring>
#include <vector>

#include "ops/cpu/packed_linear.h"
#include "ops/cpu/weight_memory.h"

/// Linear layers whose weights stay encoded: a layer is decoded into the layout of the kernels for
/// each product, in scratch memory. The bits are those of the layer decoded beforehand.
namespace flux::cpu {
namespace {

class EncodedLinear final : public PackedLinear {
 public:
  EncodedLinear(std::span<const StoredTensor> weights, DType dtype) : dtype_(dtype) {
    depth = weights[0].shape[1];
    for (const StoredTensor& weight : weights) {
      columns += weight.shape[0];
      StoredTensor own = weight;
      const Tensor bytes = allocate_weights(weight.data.bytes());
      std::memcpy(bytes.raw(), weight.data.raw(), static_cast<size_t>(bytes.bytes()));
      own.data = ConstTensor(bytes.raw(), weight.data.dtype(), weight.data.shape(), {},
                             std::make_shared<Tensor>(bytes));
      weights_.push_back(std::move(own));
    }
  }

  int64_t bytes() const override {
    int64_t total = PackedLinear::bytes();
    for (const StoredTensor& weight : weights_) total += weight.bytes();
    return total;
  }

  void run(Context& ctx, const ConstTensor& x, const Epilogue& epilogue,
           const Tensor& out) const override {
    // The caller's scope holds the memory until the product is done.
    const auto packed = pack_decoded_linear(ctx, weights_, dtype_, [&](int64_t size) {
      return ctx.workspace().allocate({size}, DType::kU8);
    });
    packed->bias = bias;
    packed->run(ctx, x, epilogue, out);
  }

 private:
  DType dtype_;
  std::vector<StoredTensor> weights_;
};

}  // namespace

std::shared_ptr<PackedLinear> pack_encoded_linear(std::span<const StoredTensor> weights,
                                                  DType dtype) {
  return std::make_shared<EncodedLinear>(weights, dtype);
}

}  // namespace flux::cpu

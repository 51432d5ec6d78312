#include <vector>

#include "ops/cpu/packed_linear.h"
#include "ops/cpu/weight_memory.h"

/// Linear layers whose weights stay encoded. Where x is bf16 and the processor has dot products of
/// int8 for the encoding, they are multiplied as they are stored (linear_int8.cc). Otherwise a
/// layer is decoded into the layout of the kernels for each product, in scratch memory: the bits
/// are those of the layer decoded beforehand.
namespace flux::cpu {
namespace {

class EncodedLinear final : public PackedLinear {
 public:
  EncodedLinear(Context& ctx, std::span<const StoredTensor> weights, DType dtype)
      : dtype_(dtype), int8_(dtype == DType::kBF16 ? int8_kernels_for(weights) : nullptr) {
    depth = weights[0].shape[1];
    for (const StoredTensor& weight : weights) {
      columns += weight.shape[0];
      StoredTensor own = weight;
      const Tensor bytes = allocate_weights(weight.data.bytes());
      own.data = ConstTensor(bytes.raw(), weight.data.dtype(), weight.data.shape(), {},
                             std::make_shared<Tensor>(bytes));
      own.file = nullptr;
      copy_bytes(weight, bytes.raw(), ctx.threads());
      weights_.push_back(std::move(own));
    }
  }

  int64_t bytes() const override {
    int64_t total = PackedLinear::bytes();
    for (const StoredTensor& weight : weights_) total += weight.bytes();
    return total;
  }

  void run(Context& ctx, const ConstTensor& x, const Epilogue& epilogue,
           std::span<const TermSum> terms, const Tensor& out) const override {
    if (int8_) return run_int8_linear(ctx, *int8_, weights_, *this, x, epilogue, terms, out);
    // The caller's scope holds the memory until the product is done.
    const auto packed = pack_decoded_linear(ctx, weights_, dtype_, [&](int64_t size) {
      return ctx.workspace().allocate({size}, DType::kU8);
    });
    packed->bias = bias;
    packed->run(ctx, x, epilogue, terms, out);
  }

 private:
  DType dtype_;
  const Int8Kernels* int8_;  // null: the exact product
  std::vector<StoredTensor> weights_;
};

}  // namespace

std::shared_ptr<PackedLinear> pack_encoded_linear(Context& ctx,
                                                  std::span<const StoredTensor> weights,
                                                  DType dtype) {
  return std::make_shared<EncodedLinear>(ctx, weights, dtype);
}

}  // namespace flux::cpu

#include "convert/weight_check.h"

#include "models/flux1/transformer.h"
#include "models/vae/vae_decoder.h"
#include "models/vae/vae_encoder.h"
#include "ops/kernels.h"
#include "ops/registry.h"
#include "pipeline/text_stages.h"
#include "support/error.h"

namespace flux {
namespace {

class NoWeights final : public PackedWeights {
 public:
  int64_t bytes() const override { return 0; }
};

/// A backend to bind models with: packing keeps nothing, so that binding looks at headers only. It
/// has no other ops: a model that computes with it is refused.
class BindingBackend final : public Backend {
 public:
  explicit BindingBackend(const Device& device) : device_(device), host_(backend_for(Device{})) {}

  // The device may be one of another machine. All devices compute in the same dtypes.
  Device device() const override { return device_; }
  std::shared_ptr<std::byte> allocate(size_t bytes) const override { return host_.allocate(bytes); }
  bool supports(DType dtype) const override { return host_.supports(dtype); }

  std::shared_ptr<const PackedWeights> pack_linear(Context&, std::span<const StoredTensor>,
                                                   std::span<const ConstTensor>, DType,
                                                   Quantization) override {
    return std::make_shared<NoWeights>();
  }
  std::shared_ptr<const PackedWeights> pack_conv2d(Context&, const ConstTensor&, const ConstTensor&,
                                                   DType, ConvSize) override {
    return std::make_shared<NoWeights>();
  }

  // Small parameters are handed over as they are: nobody reads them.
  void copy(Context&, const ConstTensor&, const Tensor&) override {}

 private:
  Device device_;
  Backend& host_;
};

}  // namespace

void check_weights(const Checkpoint& checkpoint, DType dtype, const Device& device) {
  BindingBackend backend(device);
  backend.require({.activations = dtype});
  Context ctx(backend, 1);
  const FluxConfig& config = checkpoint.config();
  const auto load = [&](Component component) {
    return Loader(ctx, checkpoint.weights(component), {dtype, Quantization::kNone});
  };
  const Layout& layout = checkpoint.layout();
  const ClipStage clip(load(Component::kTextEncoder), config.clip,
                       layout.place(Component::kTokenizer));
  const T5Stage t5(load(Component::kTextEncoder2), config.t5, layout.place(Component::kTokenizer2));
  const FluxTransformer transformer(load(Component::kTransformer), config.transformer);
  const VaeDecoder decoder(load(Component::kVae), config.vae);
  if (!has_vae_encoder(checkpoint.weights(Component::kVae))) return;
  const VaeEncoder encoder(load(Component::kVae), config.vae);
}

}  // namespace flux

#include "convert/weight_check.h"

#include "models/dit_transformer.h"
#include "models/vae_decoder.h"
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
  explicit BindingBackend(const Device& device) : real_(backend_for(device)) {}

  Device device() const override { return real_.device(); }
  std::shared_ptr<std::byte> allocate(size_t bytes) const override { return real_.allocate(bytes); }
  bool supports(DType dtype) const override { return real_.supports(dtype); }

  std::shared_ptr<const PackedWeights> pack_linear(Context&, std::span<const Tensor>,
                                                   std::span<const Tensor>, DType) override {
    return std::make_shared<NoWeights>();
  }
  std::shared_ptr<const PackedWeights> pack_conv2d(Context&, const Tensor&, const Tensor&, DType,
                                                   bool) override {
    return std::make_shared<NoWeights>();
  }

  // Small parameters are handed over as they are: nobody reads them.
  void copy(Context&, const Tensor&, const Tensor&) override {}

 private:
  Backend& real_;
};

}  // namespace

void check_weights(const Checkpoint& checkpoint, DType dtype, const Device& device) {
  BindingBackend backend(device);
  backend.require(dtype);
  Context ctx(backend, 1);
  const FluxConfig& config = checkpoint.config();
  const ClipStage clip(ctx, config.clip, checkpoint.text_encoder(),
                       checkpoint.tokenizer_directory(), dtype);
  const T5Stage t5(ctx, config.t5, checkpoint.text_encoder_2(), checkpoint.tokenizer_2_directory(),
                   dtype);
  const DitTransformer transformer(ctx, config.transformer, checkpoint.transformer(), dtype);
  const VaeDecoder vae(ctx, config.vae, checkpoint.vae(), dtype);
}

}  // namespace flux

#include "convert/weight_check.h"

#include "models/dit_transformer.h"
#include "models/vae_decoder.h"
#include "ops/backend.h"
#include "pipeline/text_stages.h"
#include "support/error.h"

namespace flux {
namespace {

class NoWeights final : public PackedWeights {
 public:
  int64_t bytes() const override { return 0; }
};

/// A backend to bind models with, not to run them: packing keeps nothing, so that binding looks at
/// headers only.
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

  void linear(Context&, std::span<const LinearPart>) override { refuse(); }
  void conv2d(Context&, const Tensor&, const Conv2dWeights&, const Tensor&,
              const Tensor&) override {
    refuse();
  }
  void layer_norm(Context&, std::span<const LayerNormPart>) override { refuse(); }
  void rms_norm(Context&, const Tensor&, const Tensor&, float, const Tensor&) override { refuse(); }
  void rms_norm_rope(Context&, const Tensor&, const Tensor&, float, const RopeTable&) override {
    refuse();
  }
  void attention(Context&, std::span<const AttentionPart>, const AttentionOptions&) override {
    refuse();
  }
  void group_norm(Context&, const Tensor&, const GroupNormParams&, const Tensor&) override {
    refuse();
  }
  void activate(Context&, const Tensor&, Activation, const Tensor&) override { refuse(); }
  void multiply(Context&, const Tensor&, const Tensor&, const Tensor&) override { refuse(); }
  void add(Context&, const Tensor&, const Tensor&, const Tensor&) override { refuse(); }
  void cast(Context&, const Tensor&, const Tensor&) override { refuse(); }
  void embedding(Context&, const Tensor&, std::span<const int32_t>, const Tensor&) override {
    refuse();
  }
  // Small parameters are handed over as they are: nobody reads them.
  void copy(Context&, const Tensor&, const Tensor&) override {}
  void transpose(Context&, const Tensor&, const Tensor&) override { refuse(); }
  void rope_angles(Context&, const Tensor&, std::span<const int64_t>, const RopeTable&) override {
    refuse();
  }
  void euler_step(Context&, const Tensor&, const EulerStep&) override { refuse(); }
  void unpack_tokens(Context&, const Tensor&, float, float, const Tensor&) override { refuse(); }
  void to_bytes(Context&, const Tensor&, const Tensor&) override { refuse(); }

 private:
  [[noreturn]] static void refuse() {
    fail(ErrorCode::kInternal, "a model computes while its weights are only checked");
  }

  Backend& real_;
};

}  // namespace

void check_weights(const Checkpoint& checkpoint, DType dtype, const Device& device) {
  BindingBackend backend(device);
  check(backend.supports(dtype), ErrorCode::kUnsupported,
        "dtype {} cannot be computed on {}: use --dtype f32 or bf16", name_of(dtype),
        to_string(device));
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

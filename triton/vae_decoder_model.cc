#include "pipeline/stage_runs.h"
#include "support/error.h"
#include "triton/options.h"
#include "triton/served_weights.h"
#include "triton/stage_model.h"
#include "triton/stage_models.h"
#include "triton/wire_type.h"

namespace flux::triton {
namespace {

class VaeDecoderModel final : public StageModel {
 public:
  explicit VaeDecoderModel(const ModelSettings& settings)
      : StageModel(settings),
        config_(load_vae_config(layout_of(settings).config(Component::kVae))) {
    accept_config(io());
    const auto make = [this](const Loader& load) {
      return std::make_unique<const VaeDecoder>(load, config_);
    };
    decoder_.emplace(this->settings(), Component::kVae, FirstLoad::kNow, make,
                     [this] { drop_states(); });
  }

 protected:
  WeightResidency::Member& weights() const override { return decoder_->member(); }

  void run(InstanceState& instance, Request& request) const override {
    Context& ctx = instance.context();
    const int64_t sizes[] = {config_.latent_channels, -1, -1};
    const ConstTensor latents = request.tensor("latents", settings().dtype, sizes);
    const int64_t largest_side = options().max_side;
    const int64_t factor = config_.scale_factor();
    const int64_t height = latents.size(2) * factor;
    const int64_t width = latents.size(3) * factor;
    check(height <= largest_side && width <= largest_side, ErrorCode::kInvalidArgument,
          "latents of {} x {} give {} x {} pixels: at most {} a side", latents.size(2),
          latents.size(3), height, width, largest_side);
    const Tensor image =
        request.output("image", DType::kF32, {request.rows(), config_.out_channels, height, width});
    const Relief others = others_leave();
    for (int64_t row = 0; row < request.rows(); ++row) {
      run_decoder(ctx, **decoder_, latents[row], image[row], {&others, 1}, {});
    }
  }

 private:
  ModelIo io() const {
    ModelIo io;
    io.inputs = {{"latents", wire_type(settings().dtype), {config_.latent_channels, -1, -1}}};
    io.outputs = {{"image", DataType::kFp32, {config_.out_channels, -1, -1}}};
    io.shared_sizes = {{"out_channels", 4 * config_.latent_channels}};
    return io;
  }

  VaeConfig config_;
  std::optional<const ServedWeights<VaeDecoder>> decoder_;
};

}  // namespace

std::unique_ptr<const ServedModel> make_vae_decoder_model(const ModelSettings& settings) {
  return std::make_unique<const VaeDecoderModel>(settings);
}

}  // namespace flux::triton

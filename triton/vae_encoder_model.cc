#include <algorithm>

#include "pipeline/posterior.h"
#include "pipeline/stage_results.h"
#include "pipeline/stage_runs.h"
#include "support/error.h"
#include "triton/options.h"
#include "triton/served_weights.h"
#include "triton/stage_model.h"
#include "triton/stage_models.h"
#include "triton/wire_type.h"

namespace flux::triton {
namespace {

/// The longest side that a pipeline resizes an image to, whatever sizes may be asked for: Kontext's
/// references.
constexpr int64_t kLongestReference = 1568;

class VaeEncoderModel final : public StageModel {
 public:
  explicit VaeEncoderModel(const ModelSettings& settings)
      : StageModel(settings),
        config_(load_vae_config(layout_of(settings).config(Component::kVae))) {
    accept_config(io());
    const auto make = [this](const Loader& load) {
      return std::make_unique<const VaeEncoder>(load, config_);
    };
    encoder_.emplace(this->settings(), Component::kVae, FirstLoad::kOnFirstUse, make,
                     [this] { drop_states(); });
    check(has_vae_encoder(encoder_->store()), ErrorCode::kInvalidArgument,
          "model '{}': its vae has no encoder; make the repository again with flux-triton convert",
          settings.name);
  }

 protected:
  WeightResidency::Member& weights() const override { return encoder_->member(); }

  void run(InstanceState& instance, Request& request) const override {
    const int64_t sizes[] = {config_.in_channels, -1, -1};
    const ConstTensor image = request.tensor("image", DType::kF32, sizes);
    const std::vector<int64_t> seeds = read_seeds(request);
    const int64_t height = encoded_side("height", image.size(2));
    const int64_t width = encoded_side("width", image.size(3));
    const auto make_output = [&](const char* name, int64_t channels) {
      if (!request.wants_output(name)) return Tensor();
      return request.host_output(name, settings().dtype, {request.rows(), channels, height, width});
    };
    const Tensor latents = make_output("latents", config_.latent_channels);
    const Tensor all_moments = make_output("moments", 2 * config_.latent_channels);
    const Relief others = others_leave();
    for (int64_t row = 0; row < request.rows(); ++row) {
      const ConstTensor moments =
          run_encoder(instance.context(), **encoder_, image[row], {&others, 1});
      check_result(settings().name, "moments", moments, ErrorCode::kInvalidArgument);
      if (all_moments.defined()) copy_convert(moments, all_moments[row]);
      if (latents.defined()) copy_convert(draw(moments, seeds, row), latents[row]);
    }
  }

 private:
  /// A sample, or the mean where there are no seeds.
  static Tensor draw(const ConstTensor& moments, std::span<const int64_t> seeds, int64_t row) {
    if (seeds.empty()) return posterior_mean(moments);
    const auto seed = static_cast<uint64_t>(seeds[static_cast<size_t>(row)]);
    return sample_posterior(moments, {seed, /*skipped=*/0});
  }

  ModelIo io() const {
    const DataType type = wire_type(settings().dtype);
    const int64_t channels = config_.latent_channels;
    ModelIo io;
    io.inputs = {{"image", DataType::kFp32, {config_.in_channels, -1, -1}},
                 {"seed", DataType::kInt64, {1}, true}};
    io.outputs = {{"latents", type, {channels, -1, -1}}, {"moments", type, {2 * channels, -1, -1}}};
    io.shared_sizes = {{"out_channels", 4 * channels}};
    return io;
  }

  /// The latents of a side of `pixels`.
  int64_t encoded_side(const char* name, int64_t pixels) const {
    const int64_t factor = config_.scale_factor();
    const int64_t largest = std::max(options().max_side, kLongestReference);
    check(pixels % factor == 0 && pixels <= largest, ErrorCode::kInvalidArgument,
          "image has a {} of {}: must be a multiple of {}, at most {}", name, pixels, factor,
          largest);
    return pixels / factor;
  }

  static std::vector<int64_t> read_seeds(const Request& request) {
    if (!request.has_input("seed")) return {};
    std::vector<int64_t> seeds = request.integers("seed");
    for (const int64_t seed : seeds) {
      check(seed >= 0, ErrorCode::kInvalidArgument, "seed is {}: must be 0 or more", seed);
    }
    return seeds;
  }

  VaeConfig config_;
  std::optional<const ServedWeights<VaeEncoder>> encoder_;
};

}  // namespace

std::unique_ptr<const ServedModel> make_vae_encoder_model(const ModelSettings& settings) {
  return std::make_unique<const VaeEncoderModel>(settings);
}

}  // namespace flux::triton

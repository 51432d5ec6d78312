#include "triton/model_registry.h"

#include "support/error.h"
#include "triton/bls_model.h"
#include "triton/stage_models.h"

namespace flux::triton {
namespace {

std::unique_ptr<const ServedModel> make_bls_model(const ModelSettings& settings) {
  return std::make_unique<const BlsModel>(settings);
}

struct Maker {
  std::string_view kind;
  std::unique_ptr<const ServedModel> (*make)(const ModelSettings& settings);
};

/// Every kind of model that is served.
constexpr Maker kMakers[] = {{"bls", make_bls_model},
                             {kStreamName, make_bls_model},
                             {"clip_encoder", make_clip_model},
                             {"t5_encoder", make_t5_model},
                             {"dit_transformer", make_dit_model},
                             {"vae_decoder", make_vae_decoder_model},
                             {kImageEncoderName, make_vae_encoder_model}};
static_assert(std::size(kMakers) == std::size(kModelNames) + std::size(kOptionalModelNames));

}  // namespace

std::unique_ptr<const ServedModel> load_model(const ModelSettings& settings) {
  for (const Maker& maker : kMakers) {
    if (maker.kind == settings.kind.kind) return maker.make(settings);
  }
  fail(ErrorCode::kInternal, "model '{}' has no maker", settings.name);
}

}  // namespace flux::triton

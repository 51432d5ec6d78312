#include "pipeline/family.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "support/error.h"
#include "support/utf8.h"

namespace flux {
namespace {

constexpr Component kFlux1Components[] = {
    Component::kScheduler, Component::kTextEncoder, Component::kTextEncoder2,
    Component::kTokenizer, Component::kTokenizer2,  Component::kTransformer,
    Component::kVae,
};
constexpr StageKind kFlux1Stages[] = {StageKind::kClipEncoder, StageKind::kT5Encoder,
                                      StageKind::kDitTransformer, StageKind::kVaeDecoder};

constexpr StageKind kFlux1OnDemand[] = {StageKind::kVaeEncoder};

/// The parts must fit one another before any weight is bound.
void check_fit(const Configs& configs, const FluxConfig& config) {
  const auto expect = [&](const char* key, int64_t found, int64_t wanted, const char* because) {
    check(found == wanted, ErrorCode::kInvalidArgument,
          "{}: '{}' is {}, expected {}, which is {}; the parts are of different models",
          configs(Component::kTransformer).name(), key, found, wanted, because);
  };
  expect("pooled_projection_dim", config.transformer.pooled_projection_dim, config.clip.hidden_size,
         "text_encoder's hidden_size");
  expect("joint_attention_dim", config.transformer.joint_attention_dim, config.t5.d_model,
         "text_encoder_2's d_model");
  expect("in_channels", config.transformer.in_channels, config.input_channels(),
         info_of(config.kind).sees_image ? "what the pipeline's latents and images take"
                                         : "4 x vae's latent_channels");
  expect("out_channels", config.transformer.out_channels, 4 * config.vae.latent_channels,
         "4 x vae's latent_channels");
}

template <PipelineKind kKind>
FluxConfig load_flux1_config(const Configs& configs) {
  FluxConfig config;
  config.kind = kKind;
  config.clip = load_clip_config(configs(Component::kTextEncoder));
  config.t5 = load_t5_config(configs(Component::kTextEncoder2));
  config.transformer = load_flux_transformer_config(configs(Component::kTransformer));
  config.vae = load_vae_config(configs(Component::kVae));
  config.scheduler = load_scheduler_config(configs(Component::kScheduler));
  check_fit(configs, config);
  return config;
}

/// Pipelines of FLUX that are known by name, and not built.
constexpr std::string_view kNotBuilt[] = {
    "FluxKontextInpaintPipeline",
    "FluxControlImg2ImgPipeline",
    "FluxControlInpaintPipeline",
    "FluxControlNetPipeline",
    "FluxControlNetImg2ImgPipeline",
    "FluxControlNetInpaintPipeline",
    "FluxPriorReduxPipeline",
    "Flux2Pipeline",
    "Flux2KleinPipeline",
};

template <PipelineKind kKind>
constexpr Family flux1_kind() {
  return {.class_name = info_of(kKind).class_name,
          .description = info_of(kKind).description,
          .components = kFlux1Components,
          .stages = kFlux1Stages,
          .on_demand = kFlux1OnDemand,
          .load_config = load_flux1_config<kKind>,
          .generate = generate};
}

/// Every family there is: a new one is a row here.
constexpr Family kFamilies[] = {
    flux1_kind<PipelineKind::kFlux>(),
    flux1_kind<PipelineKind::kKontext>(),
    flux1_kind<PipelineKind::kFill>(),
    flux1_kind<PipelineKind::kControl>(),
};

}  // namespace

Configs config_files(const Layout& layout) {
  return [&layout](Component component) { return ConfigReader(layout.config(component)); };
}

const Family& family_of(const ModelIndex& index) {
  std::vector<std::string> known;
  for (const Family& family : kFamilies) {
    if (index.class_name == family.class_name) return family;
    known.push_back(fmt::format("{} ({})", family.class_name, family.description));
  }
  const bool not_built = std::find(std::begin(kNotBuilt), std::end(kNotBuilt), index.class_name) !=
                         std::end(kNotBuilt);
  check(!not_built, ErrorCode::kInvalidArgument, "{}: {} is not supported yet, only {} is",
        index.file, index.class_name, fmt::join(known, " or "));
  fail(ErrorCode::kInvalidArgument, "{}: pipeline class is \"{}\", expected {}", index.file,
       excerpt(index.class_name), fmt::join(known, " or "));
}

}  // namespace flux

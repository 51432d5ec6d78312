#include "pipeline/family.h"

#include <fmt/ranges.h>

#include <vector>

#include "support/error.h"

namespace flux {
namespace {

constexpr Component kFlux1Components[] = {
    Component::kScheduler, Component::kTextEncoder, Component::kTextEncoder2,
    Component::kTokenizer, Component::kTokenizer2,  Component::kTransformer,
    Component::kVae,
};
constexpr StageKind kFlux1Stages[] = {StageKind::kClipEncoder, StageKind::kT5Encoder,
                                      StageKind::kDitTransformer, StageKind::kVaeDecoder};

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
  expect("in_channels", config.transformer.in_channels, 4 * config.vae.latent_channels,
         "4 x vae's latent_channels");
}

FluxConfig load_flux1_config(const Configs& configs) {
  FluxConfig config;
  config.clip = load_clip_config(configs(Component::kTextEncoder));
  config.t5 = load_t5_config(configs(Component::kTextEncoder2));
  config.transformer = load_flux_transformer_config(configs(Component::kTransformer));
  config.vae = load_vae_config(configs(Component::kVae));
  config.scheduler = load_scheduler_config(configs(Component::kScheduler));
  check_fit(configs, config);
  return config;
}

/// Every family there is: a new one is a row here.
std::span<const Family* const> families() {
  static const Family* const kFamilies[] = {&flux1_family()};
  return kFamilies;
}

}  // namespace

Configs config_files(const Layout& layout) {
  return [&layout](Component component) { return ConfigReader(layout.config(component)); };
}

const Family& flux1_family() {
  static const Family family{.class_name = "FluxPipeline",
                             .description = "FLUX.1 text to image",
                             .components = kFlux1Components,
                             .stages = kFlux1Stages,
                             .load_config = load_flux1_config,
                             .generate = generate};
  return family;
}

const Family& family_of(const ModelIndex& index) {
  std::vector<std::string> known;
  for (const Family* family : families()) {
    if (index.class_name == family->class_name) return *family;
    known.push_back(fmt::format("{} ({})", family->class_name, family->description));
  }
  fail(ErrorCode::kInvalidArgument, "{}: pipeline class is \"{}\", expected {}", index.file,
       index.class_name, fmt::join(known, " or "));
}

}  // namespace flux

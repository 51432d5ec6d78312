#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace flux {

/// The kinds of FLUX.1's pipelines that can be run. A kind that is not the first has checkpoints of
/// its own.
enum class PipelineKind {
  kFlux,  // from text; with an image, or an image and a mask, from those, too
  kKontext,
  kFill,
  kControl,
};

/// What a kind does with an input of a request.
enum class InputUse { kRefused, kOptional, kRequired };

/// What is to be known of a kind: the one table of them.
struct PipelineKindInfo {
  PipelineKind kind;
  std::string_view class_name;   // in model_index.json
  std::string_view description;  // for messages
  InputUse image;
  InputUse mask;
  std::optional<double> strength;  // the default; nothing: there is no strength
  bool true_cfg;                   // whether there are negative prompts
  /// Whether the transformer sees another image's latents, and a mask's pixels, in channels of its
  /// input beside those of the latents.
  bool sees_image;
  bool sees_mask;
};

inline constexpr PipelineKindInfo kPipelineKinds[] = {
    {PipelineKind::kFlux, "FluxPipeline", "FLUX.1 text to image, image to image and inpainting",
     InputUse::kOptional, InputUse::kOptional, 0.6, true, false, false},
    {PipelineKind::kKontext, "FluxKontextPipeline", "FLUX.1 Kontext, which edits images",
     InputUse::kOptional, InputUse::kRefused, std::nullopt, true, false, false},
    {PipelineKind::kFill, "FluxFillPipeline", "FLUX.1 Fill, which fills masked parts of images",
     InputUse::kRequired, InputUse::kRequired, 1.0, false, true, true},
    {PipelineKind::kControl, "FluxControlPipeline", "FLUX.1 Canny and Depth", InputUse::kRequired,
     InputUse::kRefused, std::nullopt, false, true, false},
};

constexpr const PipelineKindInfo& info_of(PipelineKind kind) {
  return kPipelineKinds[static_cast<size_t>(kind)];
}

}  // namespace flux

#pragma once

#include <string_view>

namespace flux {

/// The models that an image passes. Their names are also those of the served models.
enum class StageKind { kClipEncoder, kT5Encoder, kVaeEncoder, kDitTransformer, kVaeDecoder };

/// All stages in the order in which an image passes them, with their names.
struct StageInfo {
  StageKind kind;
  std::string_view name;
};
inline constexpr StageInfo kStages[] = {
    {StageKind::kClipEncoder, "clip_encoder"}, {StageKind::kT5Encoder, "t5_encoder"},
    {StageKind::kVaeEncoder, "vae_encoder"},   {StageKind::kDitTransformer, "dit_transformer"},
    {StageKind::kVaeDecoder, "vae_decoder"},
};

std::string_view name_of(StageKind stage);
/// The inverse of name_of(). Throws kInvalidArgument listing the names.
StageKind parse_stage(std::string_view name);

}  // namespace flux

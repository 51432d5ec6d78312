#include "pipeline/stages.h"

#include "support/error.h"

namespace flux {

std::string_view name_of(StageKind stage) {
  switch (stage) {
    case StageKind::kClipEncoder:
      return "clip_encoder";
    case StageKind::kT5Encoder:
      return "t5_encoder";
    case StageKind::kDitTransformer:
      return "dit_transformer";
    case StageKind::kVaeDecoder:
      return "vae_decoder";
  }
  return "unknown";
}

StageKind parse_stage(std::string_view name) {
  for (const StageKind stage : kAllStages) {
    if (name == name_of(stage)) return stage;
  }
  fail(ErrorCode::kInvalidArgument,
       "stage '{}' is not known: use clip_encoder, t5_encoder, dit_transformer or vae_decoder",
       name);
}

}  // namespace flux

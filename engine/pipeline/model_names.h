#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace flux {

/// The served models of a repository: the pipeline, then its stages.
inline constexpr std::string_view kModelNames[] = {"bls", "clip_encoder", "t5_encoder",
                                                   "dit_transformer", "vae_decoder"};

/// The name of a served model. A server may hold the models of several checkpoints, which then have
/// a name in front of them: "schnell_bls", "schnell_vae_decoder".
struct ModelName {
  std::string prefix;     // "schnell_", or empty
  std::string_view kind;  // one of kModelNames
};

/// Takes a name apart; nothing for a name that does not end with one of kModelNames.
std::optional<ModelName> parse_model_name(std::string_view name);

/// Whether a kind of model has linears that a quantization is meant for.
constexpr bool has_quantization(std::string_view kind) {
  return kind == "t5_encoder" || kind == "dit_transformer";
}
/// Whether a kind of model has attention that may be of fp8.
constexpr bool has_attention_precision(std::string_view kind) { return kind == "dit_transformer"; }

}  // namespace flux

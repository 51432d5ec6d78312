#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace flux {

/// The served models that every repository has: the pipeline, then its stages.
inline constexpr std::string_view kModelNames[] = {"bls", "clip_encoder", "t5_encoder",
                                                   "dit_transformer", "vae_decoder"};
/// The pipeline that answers with every step. A repository may lack it: one of an older convert
/// does, and one whose pipeline runs in Python.
inline constexpr std::string_view kStreamName = "bls_stream";
/// The stage of requests with an image. A repository may lack it as it may kStreamName, and where
/// its checkpoint has no encoder.
inline constexpr std::string_view kImageEncoderName = "vae_encoder";
/// The models that a repository may lack.
inline constexpr std::string_view kOptionalModelNames[] = {kStreamName, kImageEncoderName};

/// The directory of a pipeline's adapters, in that of its model bls, beside the versions: in the
/// repository's root it would be taken for a model.
inline constexpr std::string_view kLorasDirectory = "loras";

/// The name of a served model. A server may hold the models of several checkpoints, which then have
/// a name in front of them: "schnell_bls", "schnell_vae_decoder".
struct ModelName {
  std::string prefix;     // "schnell_", or empty
  std::string_view kind;  // of kModelNames or kOptionalModelNames
};

/// Takes a name apart; nothing for a name that does not end with one of these.
std::optional<ModelName> parse_model_name(std::string_view name);

/// Whether a kind of model has linears that a quantization is meant for.
constexpr bool has_quantization(std::string_view kind) {
  return kind == "t5_encoder" || kind == "dit_transformer";
}
/// Whether a kind of model has attention that may be of fp8.
constexpr bool has_attention_precision(std::string_view kind) { return kind == "dit_transformer"; }

}  // namespace flux

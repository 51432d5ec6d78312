#pragma once

#include <filesystem>
#include <string_view>

#include "models/text/clip_encoder.h"
#include "models/text/t5_encoder.h"
#include "tokenizer/clip_bpe.h"
#include "tokenizer/t5_sentencepiece.h"

namespace flux {

/// The tokenizer at a place of a Layout: its directory, or for T5 a GGUF file of the encoder, alone
/// in the directory or given itself. Throw as T5Tokenizer::load() and GgufFile::open().
ClipTokenizer load_clip_tokenizer(const std::filesystem::path& place);
T5Tokenizer load_t5_tokenizer(const std::filesystem::path& place);

/// CLIP with its tokenizer: from a prompt to the pooled state. Immutable after loading; calls may
/// run at once, each with its own Context. Source: FluxPipeline._get_clip_prompt_embeds.
class ClipStage {
 public:
  /// Loads the tokenizer and binds the weights. Throws when they do not belong to one another.
  ClipStage(const Loader& load, const ClipConfig& config, const std::filesystem::path& tokenizer);

  /// out: [hidden_size], T. Returns whether the prompt was cut.
  bool encode(Context& ctx, std::string_view prompt, const Tensor& out,
              Adapters adapters = {}) const;
  int64_t weight_bytes() const { return encoder_.weight_bytes(); }
  std::span<const LinearPlace> places() const { return encoder_.places(); }

 private:
  ClipTokenizer tokenizer_;
  ClipEncoder encoder_;
};

/// T5 with its tokenizer: from a prompt to the sequence of states. As ClipStage. Source:
/// FluxPipeline._get_t5_prompt_embeds.
class T5Stage {
 public:
  T5Stage(const Loader& load, const T5Config& config, const std::filesystem::path& tokenizer);

  /// out: [max_sequence_length, d_model], T. Returns whether the prompt was cut.
  bool encode(Context& ctx, std::string_view prompt, const Tensor& out,
              Adapters adapters = {}) const;
  int64_t weight_bytes() const { return encoder_.weight_bytes(); }
  std::span<const LinearPlace> places() const { return encoder_.places(); }

 private:
  T5Tokenizer tokenizer_;
  T5Encoder encoder_;
};

}  // namespace flux

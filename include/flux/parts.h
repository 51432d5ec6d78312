#pragma once

#include <filesystem>

namespace flux {

/// Parts of a checkpoint that are elsewhere: each a file of weights (safetensors or GGUF) or a
/// directory of a diffusers checkpoint. Empty: what the checkpoint holds, or what lies beside it.
struct PartOptions {
  std::filesystem::path transformer;
  std::filesystem::path vae;
  std::filesystem::path clip;
  std::filesystem::path t5;
  /// The directory of tokenizer/ and tokenizer_2/, or of the files of both.
  std::filesystem::path tokenizers;
};

}  // namespace flux

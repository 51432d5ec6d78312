#pragma once

#include <filesystem>
#include <string>

namespace flux {

/// Parts of a checkpoint that are elsewhere: each a file of weights (safetensors or GGUF) or a
/// directory of a diffusers checkpoint. Empty: what the checkpoint holds, or what lies beside it.
/// And which of its files are taken.
struct PartOptions {
  std::filesystem::path transformer;
  std::filesystem::path vae;
  std::filesystem::path clip;
  std::filesystem::path t5;
  /// The directory of tokenizer/ and tokenizer_2/, or of the files of both.
  std::filesystem::path tokenizers;
  /// The variant of the weights' files in directories, as diffusers names them: "fp16" takes
  /// model.fp16.safetensors. A part that has none of it has its plain files, as in diffusers; when
  /// no part has it, that is an error. Empty: the plain files.
  std::string variant;
};

}  // namespace flux

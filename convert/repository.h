#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "convert/model_config.h"
#include "pipeline/checkpoint.h"

namespace flux {

/// How the weights get into a repository.
enum class Weights {
  kLink,       // hard links: no room, no copy, and the repository can be moved on its disk
  kCopy,       // copies: stands alone
  kReference,  // symbolic links to the checkpoint's directories, which must stay where they are
};

struct ConvertOptions {
  ServingOptions serving;
  Weights weights = Weights::kLink;
  bool replace = false;  // an existing repository
};

/// The listener of a conversion.
struct ConvertObserver {
  /// Called between files and again and again during copies; throws to stop.
  std::function<void()> poll;
  /// Bytes copied so far, of how many. May be empty.
  std::function<void(int64_t done, int64_t total)> on_copy;
};

struct ConvertResult {
  std::filesystem::path repository;  // absolute
  int models = 0;
  int64_t files = 0;         // in it, those in linked directories not counted
  int64_t weight_bytes = 0;  // of the weight files, wherever they lie
  int64_t copied_bytes = 0;
};

/// Writes a Triton model repository of the models, each with its config.pbtxt, a program where it
/// runs in Python, and the checkpoint's files that it needs:
///   bls/1/                the JSON files: model_index.json and every component's config
///   bls_stream/1/         the same once more, where bls is native
///   clip_encoder/1/       text_encoder, tokenizer
///   t5_encoder/1/         text_encoder_2, tokenizer_2
///   dit_transformer/1/    transformer
///   vae_decoder/1/        vae
///   vae_encoder/1/        vae, where it has an encoder and bls is native: for images as inputs
/// It is written beside `name` and put in place when it is complete; after a failure nothing of it
/// is left, and a repository that was there is as it was. Throws kInvalidArgument and kNotFound for
/// names that cannot be used and checkpoints that cannot be served, kUnavailable when the disk
/// refuses.
ConvertResult convert_checkpoint(const Checkpoint& checkpoint, const std::filesystem::path& name,
                                 const ConvertOptions& options, const ConvertObserver& observer);

}  // namespace flux

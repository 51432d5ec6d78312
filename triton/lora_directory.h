#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "flux/request.h"
#include "support/error.h"
#include "triton/model_settings.h"

namespace flux::triton {

/// The adapters of a served pipeline, and of its stages: the *.safetensors files of the directory
/// `loras` of its model bls, which may be a link. It is looked at for each request.
class LoraDirectory {
 public:
  /// Of the pipeline that the model is, or is a stage of.
  explicit LoraDirectory(const ModelSettings& settings);

  /// What a request's `lora` names: NAME[:SCALE], several with commas; a blank text names none.
  /// NAME is a file without its ending. Throws kInvalidArgument, in a line that begins with "lora",
  /// for a name that is no file here, and for a scale that is no number.
  std::vector<AdapterFile> find(const std::string& text) const;

 private:
  std::filesystem::path file_of(const std::string& name) const;
  /// "a, b, c": for messages.
  std::string names() const;

  std::filesystem::path directory_;
};

/// What went wrong with an adapter's file, as a client is told: `lora "style": ...` without the
/// directory; of an error about no file `lora: ...`. A file that is gone is the client's mistake.
Error lora_error(const std::filesystem::path& file, const Error& error);

}  // namespace flux::triton

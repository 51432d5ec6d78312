#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "support/file_bytes.h"
#include "tensor/encoding.h"

namespace flux {

/// The tensors of one file, by name. Everything in a file is untrusted: names, types,
/// shapes, offsets and sizes are checked before a tensor is handed out. Immutable.
class WeightFile {
 public:
  virtual ~WeightFile() = default;

  /// Opens a safetensors or GGUF file, whichever it is. Throws kNotFound when it cannot be opened
  /// and kInvalidArgument, naming file and tensor, for anything that does not fit.
  static std::unique_ptr<const WeightFile> open(const std::filesystem::path& file);

  const std::filesystem::path& path() const { return path_; }
  /// "safetensors" or "GGUF".
  virtual std::string_view format() const = 0;
  /// None has been read: `file` of each is set.
  const std::map<std::string, StoredTensor, std::less<>>& tensors() const { return tensors_; }
  /// The tensors of a type, or with more dimensions, than this program reads, with the reason: "is
  /// stored as F4, ...".
  const std::map<std::string, std::string, std::less<>>& unreadable() const { return unreadable_; }

 protected:
  std::filesystem::path path_;
  std::shared_ptr<const FileBytes> bytes_;  // metadata may be views of its front
  std::map<std::string, StoredTensor, std::less<>> tensors_;
  std::map<std::string, std::string, std::less<>> unreadable_;
};

}  // namespace flux

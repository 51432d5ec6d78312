#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "tensor/encoding.h"

namespace flux {

/// The tensors of one mapped file, by name. Everything in a file is untrusted: names, types,
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
  /// Views into the mapping. A tensor that the writer left unaligned is copied.
  const std::map<std::string, StoredTensor, std::less<>>& tensors() const { return tensors_; }
  /// The tensors of a type, or with more dimensions, than this program reads, with the reason: "is
  /// stored as F4, ...".
  const std::map<std::string, std::string, std::less<>>& unreadable() const { return unreadable_; }
  /// Whether a tensor's data lie in the mapped file (and are no aligned copy of a part of it).
  bool maps(const ConstTensor& data) const {
    const auto* begin = static_cast<const char*>(mapping_.get());
    const auto* at = static_cast<const char*>(data.raw());
    return begin != nullptr && at >= begin && at < begin + mapped_size_;
  }
  /// Tells the system that the pages of `data` are not needed for now; does nothing for data that
  /// are elsewhere.
  void drop_pages(const ConstTensor& data) const;

 protected:
  std::filesystem::path path_;
  std::shared_ptr<const void> mapping_;
  size_t mapped_size_ = 0;
  std::map<std::string, StoredTensor, std::less<>> tensors_;
  std::map<std::string, std::string, std::less<>> unreadable_;
};

}  // namespace flux

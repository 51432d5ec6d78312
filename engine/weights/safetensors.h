#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace flux {

/// A mapped safetensors file. Format: 8 bytes, the header's length as little-endian u64; a JSON
/// object name -> {dtype, shape, data_offsets}; the data. Everything in it is untrusted: names,
/// dtypes, shapes, offsets and sizes are checked before a tensor is handed out.
class SafetensorsFile {
 public:
  /// Maps and checks `file`. Throws kNotFound when it cannot be opened and kInvalidArgument, naming
  /// file and tensor, for anything that does not fit: sizes, overlaps, gaps, duplicate names.
  SafetensorsFile() = default;
  static std::unique_ptr<const SafetensorsFile> open(const std::filesystem::path& file);
  /// The same checks on bytes in memory, which must outlive the result; `name` is for messages.
  static std::unique_ptr<const SafetensorsFile> parse(const void* data, size_t size,
                                                      const std::string& name);

  const std::filesystem::path& path() const { return path_; }
  /// Views into the mapping, by name. A tensor that the writer left unaligned is copied.
  const std::map<std::string, ConstTensor, std::less<>>& tensors() const { return tensors_; }
  /// The named tensor; null when it is not there. Throws kInvalidArgument, with the reason, when it
  /// is there and cannot be read.
  const ConstTensor* find(std::string_view name) const;
  /// The tensors of a dtype, or with more dimensions, than this program reads, with the reason:
  /// "is stored as F8_E4M3, ...". Their place in the file was checked, too.
  const std::map<std::string, std::string, std::less<>>& unreadable() const { return unreadable_; }
  /// Whether `tensor` lies in the mapped file (and is no aligned copy of a part of it).
  bool maps(const ConstTensor& tensor) const;

 private:
  std::filesystem::path path_;
  std::shared_ptr<const void> mapping_;
  size_t mapped_size_ = 0;
  std::map<std::string, ConstTensor, std::less<>> tensors_;
  std::map<std::string, std::string, std::less<>> unreadable_;
};

/// Writes tensors (contiguous, on the host) as a safetensors file: beside it first, then renamed,
/// so that a failure leaves no half-written file. Throws kUnavailable naming the file and cause.
void write_safetensors(const std::filesystem::path& file,
                       const std::vector<std::pair<std::string, ConstTensor>>& tensors);

}  // namespace flux

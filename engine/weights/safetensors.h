#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "weights/weight_file.h"

namespace flux {

/// A safetensors file. Format: 8 bytes, the header's length as little-endian u64; a JSON
/// object name -> {dtype, shape, data_offsets}; the data. Everything in it is untrusted: names,
/// dtypes, shapes, offsets and sizes are checked before a tensor is handed out.
class SafetensorsFile final : public WeightFile {
 public:
  /// Opens and checks `file`. Throws kNotFound when it cannot be opened and kInvalidArgument,
  /// naming file and tensor, for anything that does not fit: sizes, overlaps, gaps, duplicate
  /// names. The place of unreadable() tensors is checked, too.
  static std::unique_ptr<const SafetensorsFile> open(const std::filesystem::path& file);
  /// The same of a file that is open already.
  static std::unique_ptr<const SafetensorsFile> open(const std::filesystem::path& file,
                                                     const std::shared_ptr<FileBytes>& bytes);
  /// The same checks on bytes in memory, which must outlive the result; `name` is for messages.
  static std::unique_ptr<const SafetensorsFile> parse(const void* data, size_t size,
                                                      const std::string& name);

  std::string_view format() const override { return "safetensors"; }
  /// The named plain tensor; null when it is not there. Throws kInvalidArgument, with the reason,
  /// when it is there and is of another kind.
  const StoredTensor* find(std::string_view name) const;
  /// The texts of `__metadata__`.
  const std::map<std::string, std::string, std::less<>>& metadata() const { return metadata_; }

 private:
  std::map<std::string, std::string, std::less<>> metadata_;
};

/// Writes tensors (contiguous, on the host) as a safetensors file: beside it first, then renamed,
/// so that a failure leaves no half-written file. Throws kUnavailable naming the file and cause.
void write_safetensors(const std::filesystem::path& file,
                       const std::vector<std::pair<std::string, ConstTensor>>& tensors);

}  // namespace flux

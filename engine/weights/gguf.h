#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "weights/weight_file.h"

namespace flux {

/// A GGUF file, versions 2 and 3. Format: "GGUF", a version, the numbers of tensors and of
/// metadata entries; the entries; name, dimensions (fastest first), type and offset of each tensor;
/// the data, aligned. Source: ggml's docs/gguf.md.
class GgufFile final : public WeightFile {
 public:
  static std::unique_ptr<const GgufFile> open(const std::filesystem::path& file);
  /// The same of a file that is open already.
  static std::unique_ptr<const GgufFile> open(const std::filesystem::path& file,
                                              const std::shared_ptr<FileBytes>& bytes);
  /// The same checks on bytes in memory, which must outlive the result; `name` is for messages.
  static std::unique_ptr<const GgufFile> parse(const void* data, size_t size,
                                               const std::string& name);

  std::string_view format() const override { return "GGUF"; }

  /// A value of the metadata. Lists of numbers are their bytes in the file.
  struct Bytes {
    std::span<const uint8_t> data;  // elements of `width` bytes, little-endian, maybe unaligned
    size_t width = 0;
    bool is_float = false;
  };
  using Value =
      std::variant<int64_t, double, bool, std::string_view, std::vector<std::string_view>, Bytes>;

  /// The value of a key; null when it is not there.
  const Value* find_metadata(std::string_view key) const;
  const std::map<std::string, Value, std::less<>>& metadata() const { return metadata_; }
  /// The text, or list of texts, of a key; nothing when it is not there or of another type.
  std::optional<std::string_view> text(std::string_view key) const;
  const std::vector<std::string_view>* texts(std::string_view key) const;
  const Bytes* list(std::string_view key) const;

 private:
  friend class GgufReader;
  std::map<std::string, Value, std::less<>> metadata_;
};

}  // namespace flux

#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace flux::front {

/// The keys that clients may show. Without any, everybody may ask.
class ApiKeys {
 public:
  ApiKeys() = default;
  /// Reads a file: one key a line, at most 64 KiB; empty lines and those that begin with # are left
  /// out. Throws kNotFound, and kInvalidArgument for a file without a key or a key with characters
  /// that no header can carry.
  explicit ApiKeys(const std::filesystem::path& file);

  bool are_needed() const { return !keys_.empty(); }
  /// Whether `key` is one of them. How long it takes does not tell where a wrong key differs, nor
  /// from which one; it does tell the lengths of the keys.
  bool has(std::string_view key) const;

 private:
  std::vector<std::string> keys_;
};

/// The key in a request's headers: `Authorization: Bearer KEY`, or else `X-API-Key: KEY`; empty:
/// none.
std::string_view shown_key(std::string_view authorization, std::string_view api_key);

}  // namespace flux::front

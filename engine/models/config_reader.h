#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace flux {

/// Bounds on every width and count of a config: far above any published model, far below overflow.
inline constexpr int64_t kMaxSize = 1 << 20;
inline constexpr int64_t kMaxLayers = 1024;

/// Typed, bounded access to a config file. A missing key or null takes the fallback. Everything
/// else that does not fit throws kInvalidArgument naming the file, the key, the value and what is
/// allowed.
class ConfigReader {
 public:
  using Json = nlohmann::json;

  /// Throws kNotFound or kInvalidArgument for a file that holds no JSON object, and for weights
  /// that a library quantised.
  ConfigReader(const std::filesystem::path& file);  // NOLINT(google-explicit-constructor)
  /// The same of an object that is in no file; `name` stands for the file in messages.
  ConfigReader(std::string name, Json object) : file_(std::move(name)), json_(std::move(object)) {}

  /// The file, or what stands for it.
  const std::string& name() const { return file_; }
  /// All of it.
  const Json& json() const { return json_; }
  /// The object under `key`, with the same file in messages; *this where there is none.
  ConfigReader part(const char* key) const;

  int64_t integer(const char* key, int64_t fallback, int64_t low, int64_t high) const;
  /// An integer from 1 to kMaxSize.
  int64_t size(const char* key, int64_t fallback) const;
  /// An integer from 1 to kMaxLayers.
  int64_t layers(const char* key, int64_t fallback) const;
  double number(const char* key, double fallback, double low, double high) const;
  bool boolean(const char* key, bool fallback) const;
  std::string text(const char* key, const char* fallback) const;
  /// A list of 1 to 16 sizes.
  std::vector<int64_t> sizes(const char* key, const std::vector<int64_t>& fallback) const;

  bool is_list(const char* key) const;
  bool has(const char* key) const { return find(key) != nullptr; }
  /// Refuses a setting that changes the image and that this program does not implement.
  void require(const char* key, const Json& expected) const;

  [[noreturn]] void refuse(const char* key, const Json& value, const std::string& why) const;
  [[noreturn]] void refuse(const std::string& why) const;

 private:
  const Json* find(const char* key) const;

  std::string file_;
  Json json_;
};

}  // namespace flux

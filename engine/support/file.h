#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>

namespace flux {

/// A regular file mapped for reading.
struct MappedFile {
  std::shared_ptr<const void> data;  // unmaps when the last owner goes
  size_t size = 0;
};

/// Maps `file`. Throws kNotFound when it does not exist and kInvalidArgument when it is not a
/// regular file, cannot be read or is empty.
MappedFile map_file(const std::filesystem::path& file);

/// Reads a whole text file of at most `max_bytes`. Throws like map_file.
std::string read_text_file(const std::filesystem::path& file, size_t max_bytes);

/// A file that appears under its name only when it is complete: it is written beside it, then
/// renamed. Without commit() nothing is left. A symbolic link stays: the file that it leads to is
/// written.
class AtomicFile {
 public:
  /// Throws kUnavailable, naming file and cause, when the directory cannot be written.
  explicit AtomicFile(std::filesystem::path file);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Appends bytes. Throws kUnavailable (on a full disk, for example).
  void write(const void* data, size_t size);
  /// Flushes, closes and renames. Throws kUnavailable.
  void commit();

 private:
  [[noreturn]] void refuse(const char* doing, int error) const;

  std::filesystem::path file_;
  std::filesystem::path temporary_;  // empty: written directly (a device such as /dev/stdout)
  int descriptor_ = -1;
};

}  // namespace flux

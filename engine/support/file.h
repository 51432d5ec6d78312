#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

namespace flux {

/// The ending of a file's name, in small letters: ".gguf".
std::string ending_of(const std::filesystem::path& file);

/// Reads a whole file of at most `max_bytes`. Throws like FileBytes.
std::string read_file(const std::filesystem::path& file, size_t max_bytes);

/// What a symbolic link leads to, whether that exists or not; another path as it is. Throws
/// kUnavailable for links that lead nowhere.
std::filesystem::path follow_links(std::filesystem::path file);

/// Whether `file` is a character device, such as /dev/null or a terminal.
bool is_device(const std::filesystem::path& file);

/// A file that appears under its name only when it is complete: it is written beside it, then
/// renamed. Without commit() nothing is left. A symbolic link stays: the file that it leads to is
/// written.
class AtomicFile {
 public:
  /// Throws kUnavailable, naming file and cause, when the directory cannot be written, or `file` is
  /// there and neither a regular file nor a device: a FIFO would wait for a reader.
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

#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>

#include "support/file_descriptor.h"

namespace flux {

/// The bytes of a regular file. Each has an address, its place, that views of parts of the file can
/// be made of; what is there is read by read(), and only the front lies at its place. A mapping
/// would do that without reading, and end the process when the file becomes shorter.
class FileBytes {
 public:
  /// Opens `file`. Throws kNotFound when it does not exist and kInvalidArgument when it is not a
  /// regular file, cannot be read or is empty.
  static std::shared_ptr<FileBytes> open(const std::filesystem::path& file);
  /// Bytes in memory, which must outlive the result, in place of a file; `name` is for messages.
  static std::shared_ptr<FileBytes> of(const void* data, size_t size, std::string name);

  ~FileBytes();
  FileBytes(const FileBytes&) = delete;
  FileBytes& operator=(const FileBytes&) = delete;

  const std::string& name() const { return name_; }
  size_t size() const { return size_; }
  /// The place of the first byte.
  const std::byte* begin() const { return begin_; }
  /// Reads the first `bytes`, at most size(), to their place. Throws as read().
  void read_front(size_t bytes);
  /// Reads bytes, given by their place, to `to`. Thread-safe. Throws kInvalidArgument when the file
  /// has changed since it was opened, kUnavailable when it cannot be read.
  void read(const void* place, size_t bytes, void* to) const;

 private:
  FileBytes(std::string name, FileDescriptor descriptor, std::byte* begin, size_t size);
  void read_at(size_t offset, size_t bytes, void* to) const;

  std::string name_;
  FileDescriptor descriptor_;  // none: bytes in memory
  std::byte* begin_;
  size_t size_;
  size_t front_ = 0;
  timespec written_{};  // when it was opened
};

}  // namespace flux

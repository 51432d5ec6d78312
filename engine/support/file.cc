#include "support/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "support/error.h"
#include "support/file_descriptor.h"

namespace flux {

MappedFile map_file(const std::filesystem::path& file) {
  // O_NONBLOCK: a FIFO put where a weight file belongs must not hang the reader.
  const FileDescriptor descriptor(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (descriptor.get() < 0) {
    const int error = errno;
    const bool missing = error == ENOENT || error == ENOTDIR;
    fail(missing ? ErrorCode::kNotFound : ErrorCode::kInvalidArgument, "{}: cannot be opened: {}",
         file, std::strerror(error));
  }
  struct stat status {};
  check(::fstat(descriptor.get(), &status) == 0 && S_ISREG(status.st_mode),
        ErrorCode::kInvalidArgument, "{}: not a regular file; put the file itself there", file);
  check(status.st_size > 0, ErrorCode::kInvalidArgument, "{}: the file is empty; download it again",
        file);
  const auto size = static_cast<size_t>(status.st_size);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor.get(), 0);
  check(data != MAP_FAILED, ErrorCode::kUnavailable, "{}: cannot be mapped ({} bytes): {}", file,
        size, std::strerror(errno));
  return {std::shared_ptr<const void>(
              data, [size](const void* p) { ::munmap(const_cast<void*>(p), size); }),
          size};
}

std::string read_text_file(const std::filesystem::path& file, size_t max_bytes) {
  const MappedFile mapped = map_file(file);
  check(mapped.size <= max_bytes, ErrorCode::kInvalidArgument,
        "{}: {} bytes, at most {} are expected", file, mapped.size, max_bytes);
  return std::string(static_cast<const char*>(mapped.data.get()), mapped.size);
}

namespace {

/// What a symbolic link leads to, whether that exists or not; another path as it is.
std::filesystem::path follow_links(std::filesystem::path file) {
  constexpr int kMostLinks = 40;  // as the kernel's
  std::error_code error;
  for (int links = 0; std::filesystem::is_symlink(file, error); ++links) {
    check(links < kMostLinks, ErrorCode::kUnavailable,
          "{}: too many symbolic links; choose another place", file);
    file = file.parent_path() / std::filesystem::read_symlink(file, error);
  }
  return file;
}

}  // namespace

AtomicFile::AtomicFile(std::filesystem::path file) : file_(follow_links(std::move(file))) {
  struct stat status {};
  const bool special = ::stat(file_.c_str(), &status) == 0 && !S_ISREG(status.st_mode);
  if (special) {
    descriptor_ = ::open(file_.c_str(), O_WRONLY | O_CLOEXEC);
  } else {
    temporary_ = file_;
    temporary_ += fmt::format(".{}.partial", ::getpid());
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  }
  if (descriptor_ < 0) refuse("cannot be created", errno);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::refuse(const char* doing, int error) const {
  fail(ErrorCode::kUnavailable, "{}: {}: {}; choose another place or make room", file_, doing,
       std::strerror(error));
}

void AtomicFile::write(const void* data, size_t size) {
  const char* bytes = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = ::write(descriptor_, bytes, size);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) refuse("cannot be written", written < 0 ? errno : ENOSPC);
    bytes += written;
    size -= static_cast<size_t>(written);
  }
}

void AtomicFile::commit() {
  const int closed = ::close(std::exchange(descriptor_, -1));
  const int error = errno;
  if (temporary_.empty()) {
    if (closed != 0) refuse("cannot be written", error);
    return;
  }
  if (closed != 0) {
    ::unlink(temporary_.c_str());
    refuse("cannot be written", error);
  }
  if (::rename(temporary_.c_str(), file_.c_str()) != 0) {
    const int cause = errno;
    ::unlink(temporary_.c_str());
    refuse("cannot be replaced", cause);
  }
}

}  // namespace flux

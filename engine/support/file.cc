#include "support/file.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstring>
#include <utility>

#include "support/error.h"
#include "support/file_bytes.h"
#include "support/utf8.h"

namespace flux {
namespace {

/// A name beside `file`, not longer than a name may be although the file's own may be that long
/// already.
std::filesystem::path temporary_name(const std::filesystem::path& file) {
  static std::atomic<unsigned> count = 0;
  const std::string ending = fmt::format(".{}-{}.partial", ::getpid(), count++);
  const size_t most = NAME_MAX - ending.size();
  const std::string name = file.filename().string();
  return file.parent_path() / (std::string(first_bytes(name, most)) + ending);
}

}  // namespace

std::string ending_of(const std::filesystem::path& file) {
  return lower_case(file.extension().string());
}

std::string read_file(const std::filesystem::path& file, size_t max_bytes) {
  const auto bytes = FileBytes::open(file);
  check(bytes->size() <= max_bytes, ErrorCode::kInvalidArgument,
        "{}: {} bytes, at most {} are expected", file, bytes->size(), max_bytes);
  std::string text(bytes->size(), '\0');
  bytes->read(bytes->begin(), text.size(), text.data());
  return text;
}

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

bool is_device(const std::filesystem::path& file) {
  std::error_code error;
  return std::filesystem::is_character_file(file, error);
}

AtomicFile::AtomicFile(std::filesystem::path file) : file_(follow_links(std::move(file))) {
  std::error_code error;
  const auto status = std::filesystem::status(file_, error);
  if (is_device(file_)) {
    descriptor_ = ::open(file_.c_str(), O_WRONLY | O_CLOEXEC);
  } else if (exists(status) && !is_regular_file(status)) {
    fail(ErrorCode::kUnavailable, "{}: is no regular file; choose another place", file_);
  } else {
    temporary_ = temporary_name(file_);
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

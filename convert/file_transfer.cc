#include "convert/file_transfer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <vector>

#include "support/error.h"
#include "support/file_descriptor.h"

namespace flux {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kPieceBytes = int64_t{4} << 20;
/// Flushing as we go keeps the progress honest and the wait at the end short.
constexpr int64_t kFlushBytes = int64_t{256} << 20;

[[noreturn]] void refuse_target(const fs::path& target, const char* what, int error) {
  fail(ErrorCode::kUnavailable, "{}: {}: {}; make room or choose another place", target.string(),
       what, std::strerror(error));
}

int open_new(const fs::path& target) {
  const int descriptor = ::open(target.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (descriptor < 0) refuse_target(target, "cannot be created", errno);
  return descriptor;
}

void write_all(const fs::path& target, int descriptor, const char* data, size_t size) {
  while (size > 0) {
    const ssize_t written = ::write(descriptor, data, size);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) refuse_target(target, "cannot be written", written < 0 ? errno : ENOSPC);
    data += written;
    size -= static_cast<size_t>(written);
  }
}

void flush(const fs::path& target, int descriptor) {
  if (::fsync(descriptor) != 0) refuse_target(target, "cannot be flushed to the disk", errno);
}

/// Reads up to `size` bytes; 0 at the end of the file.
int64_t read_some(const fs::path& source, int descriptor, char* data, int64_t size) {
  for (;;) {
    const ssize_t got = ::read(descriptor, data, static_cast<size_t>(size));
    if (got < 0 && errno == EINTR) continue;
    check(got >= 0, ErrorCode::kInvalidArgument, "{}: cannot be read: {}", source.string(),
          std::strerror(errno));
    return got;
  }
}

}  // namespace

void copy_file_content(const fs::path& source, const fs::path& target,
                       const CopyObserver& observer) {
  const FileDescriptor from(::open(source.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  check(from.get() >= 0, ErrorCode::kInvalidArgument, "{}: cannot be opened: {}", source.string(),
        std::strerror(errno));
  struct stat status {};
  check(::fstat(from.get(), &status) == 0 && S_ISREG(status.st_mode), ErrorCode::kInvalidArgument,
        "{}: not a regular file", source.string());
  const FileDescriptor to(open_new(target));
  std::vector<char> piece(static_cast<size_t>(std::clamp<int64_t>(status.st_size, 1, kPieceBytes)));
  int64_t copied = 0;
  int64_t flushed = 0;
  for (;;) {
    const int64_t got = read_some(source, from.get(), piece.data(), std::ssize(piece));
    if (got == 0) break;
    write_all(target, to.get(), piece.data(), static_cast<size_t>(got));
    copied += got;
    if (copied - flushed >= kFlushBytes) {
      flush(target, to.get());
      flushed = copied;
    }
    observer(got);
  }
  check(copied == status.st_size, ErrorCode::kInvalidArgument,
        "{}: had {} bytes and gave {}: it changed while it was copied; try again", source.string(),
        int64_t{status.st_size}, copied);
  flush(target, to.get());
}

void write_new_file(const fs::path& target, std::string_view text) {
  const FileDescriptor to(open_new(target));
  write_all(target, to.get(), text.data(), text.size());
  flush(target, to.get());
}

void hard_link_file(const fs::path& source, const fs::path& target) {
  // Checkpoints in a download cache are symbolic links; the file itself is wanted.
  if (::linkat(AT_FDCWD, source.c_str(), AT_FDCWD, target.c_str(), AT_SYMLINK_FOLLOW) == 0) return;
  const int error = errno;
  check(error != EXDEV, ErrorCode::kUnavailable,
        "{}: is on another file system than the repository and cannot be linked into it; use "
        "--weights copy, or --weights reference to leave the weights where they are",
        source.string());
  fail(ErrorCode::kUnavailable,
       "{}: cannot be linked into the repository: {}; use --weights copy, or --weights reference "
       "to leave the weights where they are",
       source.string(), std::strerror(error));
}

void link_tree(const fs::path& source, const fs::path& target) {
  fs::create_directories(target);
  for (const fs::directory_entry& entry : fs::directory_iterator(source)) {
    const fs::path place = target / entry.path().filename();
    if (entry.is_symlink()) {
      fs::copy_symlink(entry.path(), place);
    } else if (entry.is_directory()) {
      link_tree(entry.path(), place);
    } else {
      std::error_code error;
      fs::create_hard_link(entry.path(), place, error);
      if (error) copy_file_content(entry.path(), place, [](int64_t) {});
    }
  }
}

}  // namespace flux

#include "support/file_bytes.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "support/error.h"
#include "support/integer.h"

namespace flux {

FileBytes::FileBytes(std::string name, FileDescriptor descriptor, std::byte* begin, size_t size)
    : name_(std::move(name)), descriptor_(std::move(descriptor)), begin_(begin), size_(size) {}

std::shared_ptr<FileBytes> FileBytes::open(const std::filesystem::path& file) {
  // O_NONBLOCK: a FIFO put where a weight file belongs must not hang the reader.
  FileDescriptor descriptor(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
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
  // Addresses alone: no memory is behind them, and none is promised.
  void* begin =
      ::mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  check(begin != MAP_FAILED, ErrorCode::kUnavailable, "{}: no addresses for its {} bytes: {}", file,
        size, std::strerror(errno));
  std::shared_ptr<FileBytes> bytes(
      new FileBytes(file.string(), std::move(descriptor), static_cast<std::byte*>(begin), size));
  bytes->written_ = status.st_mtim;
  return bytes;
}

std::shared_ptr<FileBytes> FileBytes::of(const void* data, size_t size, std::string name) {
  // Never written: without a descriptor nothing is read to its place.
  auto* begin = static_cast<std::byte*>(const_cast<void*>(data));
  return std::shared_ptr<FileBytes>(
      new FileBytes(std::move(name), FileDescriptor(-1), begin, size));
}

FileBytes::~FileBytes() {
  if (descriptor_.get() >= 0) ::munmap(begin_, size_);
}

void FileBytes::read_front(size_t bytes) {
  constexpr size_t kLeast = size_t{64} << 10;
  if (descriptor_.get() < 0 || bytes <= front_) return;
  // Readers of an unknown length ask for a little at a time.
  const size_t end = std::min(size_, std::max({bytes, 2 * front_, kLeast}));
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  check(::mprotect(begin_, round_up(end, page), PROT_READ | PROT_WRITE) == 0,
        ErrorCode::kUnavailable, "{}: no memory for its first {} bytes: {}", name_, end,
        std::strerror(errno));
  read_at(front_, end - front_, begin_ + front_);
  front_ = end;
}

void FileBytes::read(const void* place, size_t bytes, void* to) const {
  const auto offset = static_cast<size_t>(static_cast<const std::byte*>(place) - begin_);
  check(offset <= size_ && bytes <= size_ - offset, ErrorCode::kInternal,
        "{}: {} bytes at byte {} of {} are no part of it", name_, bytes, offset, size_);
  if (bytes == 0) return;
  if (descriptor_.get() < 0) {
    std::memcpy(to, place, bytes);
  } else {
    read_at(offset, bytes, to);
  }
}

void FileBytes::read_at(size_t offset, size_t bytes, void* to) const {
  auto* at = static_cast<std::byte*>(to);
  size_t done = 0;
  while (done < bytes) {
    const ssize_t got =
        ::pread(descriptor_.get(), at + done, bytes - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    check(got >= 0, ErrorCode::kUnavailable,
          "{}: cannot be read at byte {}: {}; check its disk, then load it again", name_,
          offset + done, std::strerror(errno));
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  struct stat now {};
  check(::fstat(descriptor_.get(), &now) == 0, ErrorCode::kUnavailable,
        "{}: cannot be examined: {}", name_, std::strerror(errno));
  const auto size = static_cast<size_t>(now.st_size);
  const bool unchanged = done == bytes && size == size_ && now.st_mtim.tv_sec == written_.tv_sec &&
                         now.st_mtim.tv_nsec == written_.tv_nsec;
  check(unchanged, ErrorCode::kInvalidArgument,
        "{}: changed while it was loaded: it had {} bytes and {}; load it again when it is "
        "complete, and replace a file in use by renaming a new one over it",
        name_, size_, size == size_ ? "was written to" : fmt::format("has {} now", size));
}

}  // namespace flux

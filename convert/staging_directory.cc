#include "convert/staging_directory.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>

#include "support/error.h"
#include "support/log.h"

namespace flux {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse(const fs::path& path, const char* what, int error) {
  fail(ErrorCode::kUnavailable, "{}: {}: {}; choose another place or make room", path.string(),
       what, std::strerror(error));
}

void flush_directory(const fs::path& directory) {
  const int descriptor = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) refuse(directory, "cannot be opened", errno);
  // Some file systems cannot flush a directory (EINVAL): they do it on their own.
  const int error = ::fsync(descriptor) == 0 || errno == EINVAL ? 0 : errno;
  ::close(descriptor);
  if (error != 0) refuse(directory, "cannot be flushed to the disk", error);
}

/// All directories of a tree; links are not followed.
void flush_directories(const fs::path& root) {
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root)) {
    if (entry.symlink_status().type() == fs::file_type::directory) flush_directory(entry.path());
  }
  flush_directory(root);
}

bool is_there(const fs::path& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0;
}

/// Whether a file system does not know the flags of renameat2().
bool knows_no_flags(int error) { return error == EINVAL || error == ENOSYS || error == ENOTSUP; }

}  // namespace

StagingDirectory::StagingDirectory(fs::path target) : target_(std::move(target)) {
  std::string pattern = (target_.parent_path() / ".flux-triton-convert-XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr) {
    refuse(target_.parent_path(), "no directory can be made in it", errno);
  }
  holder_ = pattern;
  // The holder is for this user only; the content has the permissions that the user's umask gives.
  content_ = holder_ / "new";
  if (::mkdir(content_.c_str(), 0777) != 0) {
    const int error = errno;
    ::rmdir(holder_.c_str());
    refuse(content_, "cannot be made", error);
  }
}

StagingDirectory::~StagingDirectory() {
  std::error_code error;
  fs::remove_all(holder_, error);
  if (error) log_warning("{}: cannot be removed: {}", holder_.string(), error.message());
}

void StagingDirectory::commit(Existing existing) {
  flush_directories(content_);
  if (is_there(target_)) {
    check(existing == Existing::kReplace, ErrorCode::kInvalidArgument,
          "{}: exists already; choose another name, or --force to replace it", target_.string());
    exchange();
  } else {
    put_in_place();
  }
  flush_directory(target_.parent_path());
}

void StagingDirectory::put_in_place() const {
  if (::renameat2(AT_FDCWD, content_.c_str(), AT_FDCWD, target_.c_str(), RENAME_NOREPLACE) == 0) {
    return;
  }
  // rename() replaces an empty directory at most, and fails on anything else.
  const bool try_plainly = knows_no_flags(errno);
  if (try_plainly && ::rename(content_.c_str(), target_.c_str()) == 0) return;
  refuse(target_, "cannot be put in place", errno);
}

void StagingDirectory::exchange() const {
  if (::renameat2(AT_FDCWD, content_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0) {
    return;
  }
  if (!knows_no_flags(errno)) refuse(target_, "cannot be replaced", errno);
  const fs::path old = holder_ / "old";
  if (::rename(target_.c_str(), old.c_str()) != 0) refuse(target_, "cannot be replaced", errno);
  if (::rename(content_.c_str(), target_.c_str()) == 0) return;
  const int error = errno;
  if (::rename(old.c_str(), target_.c_str()) != 0) {
    // The last copy of the old content must not go with the holder.
    const fs::path kept = fs::path(target_.string() + ".old");
    ::rename(old.c_str(), kept.c_str());
    fail(ErrorCode::kUnavailable, "{}: cannot be replaced: {}; what it held is in {}",
         target_.string(), std::strerror(error), kept.string());
  }
  refuse(target_, "cannot be replaced", error);
}

}  // namespace flux

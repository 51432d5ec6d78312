#include "cli/log_writer.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace flux::cli {
namespace {

constexpr size_t kMostKept = size_t{1} << 20;
/// A pipe that is ready for writing takes this much without waiting (PIPE_BUF of Linux).
constexpr size_t kAtOnce = 4096;

bool is_writable() {
  pollfd error{STDERR_FILENO, POLLOUT, 0};
  return ::poll(&error, 1, 0) == 1;
}

}  // namespace

void LogWriter::add(std::string_view bytes) {
  write_some();
  while (!bytes.empty()) {
    const size_t end = bytes.find('\n');
    const std::string_view line = bytes.substr(0, end == bytes.npos ? end : end + 1);
    bytes.remove_prefix(line.size());
    if (in_a_drop_ || kept_.size() + line.size() > kMostKept) {
      in_a_drop_ = end == std::string_view::npos;
      if (!in_a_drop_) ++dropped_;
    } else {
      kept_ += line;
    }
  }
  flush();
}

void LogWriter::flush() {
  write_some();
  if (!kept_.empty() || dropped_ == 0) return;
  kept_ = fmt::format("flux-triton: {} lines of the server's log were dropped: nobody read them\n",
                      dropped_);
  dropped_ = 0;
  write_some();
}

void LogWriter::write_some() {
  size_t written = 0;
  while (written < kept_.size() && is_writable()) {
    const size_t size = std::min(kAtOnce, kept_.size() - written);
    const ssize_t done = ::write(STDERR_FILENO, kept_.data() + written, size);
    if (done < 0 && errno == EINTR) continue;
    // The log is lost where it cannot be written.
    if (done <= 0) written = kept_.size();
    if (done > 0) written += static_cast<size_t>(done);
  }
  kept_.erase(0, written);
}

}  // namespace flux::cli

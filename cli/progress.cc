#include "cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "support/log.h"

namespace flux::cli {
namespace {

constexpr int kBarWidth = 28;
constexpr const char* kEraseLine = "\r\x1b[K";

bool is_terminal() {
  const char* terminal = std::getenv("TERM");
  return ::isatty(STDERR_FILENO) == 1 && terminal != nullptr &&
         std::string_view(terminal) != "dumb";
}

}  // namespace

std::string progress_line(int done, int total, double seconds) {
  const int filled = total > 0 ? kBarWidth * done / total : 0;
  std::string line =
      fmt::format("step {:>{}}/{} [{:#<{}}{:-<{}}]", done, fmt::formatted_size("{}", total), total,
                  "", filled, "", kBarWidth - filled);
  if (done > 0) {
    const double per_step = seconds / done;
    line += fmt::format("  {:.2f} s/step, {:.1f} s left", per_step, per_step * (total - done));
  }
  return line;
}

Progress::Progress(Mode mode)
    : wanted_(mode == Mode::kAutomatic),
      active_(wanted_ && is_terminal()),
      logged_(std::chrono::steady_clock::now()),
      start_(logged_) {}

Progress::~Progress() {
  if (active_) show("");
}

void Progress::phase(const std::string& name) { show(name); }

void Progress::step(int done, int total) {
  const auto now = std::chrono::steady_clock::now();
  if (done == 0) start_ = now;
  show(progress_line(done, total, std::chrono::duration<double>(now - start_).count()));
}

void Progress::log_line(const std::string& line) {
  constexpr std::chrono::seconds kSilence(15);
  const auto now = std::chrono::steady_clock::now();
  if (!wanted_ || now - logged_ < kSilence) return;
  logged_ = now;
  log(LogLevel::kInfo, line);
}

void Progress::show(const std::string& line) {
  if (!active_) return log_line(line);
  std::fputs((kEraseLine + line).c_str(), stderr);
  std::fflush(stderr);
}

}  // namespace flux::cli

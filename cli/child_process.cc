#include "cli/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include "support/error.h"
#include "support/stop_signals.h"

namespace flux::cli {
namespace {

/// A program that was told to end is killed after this time.
constexpr auto kPatience = std::chrono::seconds(10);

struct Pipe {
  int read_end = -1;
  int write_end = -1;

  Pipe() {
    int ends[2];
    check(::pipe2(ends, O_CLOEXEC) == 0, ErrorCode::kUnavailable, "a pipe cannot be made: {}",
          std::strerror(errno));
    read_end = ends[0];
    write_end = ends[1];
  }
  ~Pipe() {
    close_end(read_end);
    close_end(write_end);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;

  static void close_end(int& end) {
    if (end >= 0) ::close(end);
    end = -1;
  }
};

std::vector<std::string> environment_with(const std::map<std::string, std::string>& replaced) {
  std::vector<std::string> variables;
  for (char** each = environ; *each != nullptr; ++each) {
    const std::string_view variable = *each;
    const std::string name(variable.substr(0, variable.find('=')));
    if (!replaced.contains(name)) variables.emplace_back(variable);
  }
  for (const auto& [name, value] : replaced) variables.push_back(fmt::format("{}={}", name, value));
  return variables;
}

std::vector<char*> pointers_to(std::vector<std::string>& words) {
  std::vector<char*> pointers;
  pointers.reserve(words.size() + 1);
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  return pointers;
}

/// Runs in the child between fork and exec, with only the calls that are safe there. On failure it
/// writes errno to `report` and ends.
[[noreturn]] void become(const char* program, char* const* arguments, char* const* environment,
                         const sigset_t& mask, pid_t parent, int output, int report) {
  ::setpgid(0, 0);
  // The kernel tells the child to end if this program dies for any reason.
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(127);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGXFSZ}) {
    ::signal(signal, SIG_DFL);
  }
  ::sigprocmask(SIG_SETMASK, &mask, nullptr);
  const int nothing = ::open("/dev/null", O_RDONLY);
  if (nothing >= 0 && ::dup2(nothing, STDIN_FILENO) >= 0 && ::dup2(output, STDOUT_FILENO) >= 0 &&
      ::dup2(output, STDERR_FILENO) >= 0) {
    ::execve(program, arguments, environment);
  }
  const int error = errno;
  [[maybe_unused]] const ssize_t written = ::write(report, &error, sizeof error);
  ::_exit(127);
}

}  // namespace

SignalReader::SignalReader() {
  sigset_t wanted;
  sigemptyset(&wanted);
  for (const int signal : {SIGINT, SIGTERM, SIGCHLD}) sigaddset(&wanted, signal);
  // A signal that is blocked arrives here even if it is ignored.
  if (!hangup_is_ignored()) sigaddset(&wanted, SIGHUP);
  ::sigprocmask(SIG_BLOCK, &wanted, &before_);
  descriptor_ = ::signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
  if (descriptor_ < 0) {
    const int error = errno;
    ::sigprocmask(SIG_SETMASK, &before_, nullptr);
    fail(ErrorCode::kUnavailable, "signals cannot be read: {}", std::strerror(error));
  }
}

SignalReader::~SignalReader() {
  // Signals that arrived unread must not take effect when the old mask returns.
  while (next()) {
  }
  ::close(descriptor_);
  ::sigprocmask(SIG_SETMASK, &before_, nullptr);
}

std::optional<int> SignalReader::next() const {
  signalfd_siginfo info{};
  if (::read(descriptor_, &info, sizeof info) != sizeof info) return std::nullopt;
  return static_cast<int>(info.ssi_signo);
}

ChildProcess::ChildProcess(const Command& command, const SignalReader& signals)
    : signals_(signals) {
  std::vector<std::string> words = {command.program.string()};
  words.insert(words.end(), command.arguments.begin(), command.arguments.end());
  std::vector<std::string> variables = environment_with(command.environment);
  const std::vector<char*> arguments = pointers_to(words);
  const std::vector<char*> environment = pointers_to(variables);
  Pipe output;
  Pipe report;  // closes when the program is started
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  check(child >= 0, ErrorCode::kUnavailable, "{}: cannot be started: {}", command.program.string(),
        std::strerror(errno));
  if (child == 0) {
    become(command.program.c_str(), arguments.data(), environment.data(), signals.mask_before(),
           parent, output.write_end, report.write_end);
  }
  Pipe::close_end(output.write_end);
  Pipe::close_end(report.write_end);
  int error = 0;
  ssize_t got = 0;
  do {
    got = ::read(report.read_end, &error, sizeof error);
  } while (got < 0 && errno == EINTR);
  if (got != 0) {
    ::waitpid(child, nullptr, 0);
    fail(ErrorCode::kUnavailable, "{}: cannot be started: {}", command.program.string(),
         std::strerror(error));
  }
  id_ = child;
  output_ = std::exchange(output.read_end, -1);
  ::fcntl(output_, F_SETFL, O_NONBLOCK);
}

ChildProcess::~ChildProcess() {
  if (!ended()) send(SIGTERM);
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!ended()) {
    if (std::chrono::steady_clock::now() > deadline) send(SIGKILL);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    read_output(std::chrono::milliseconds(0),
                [](std::string_view) {});  // so that the program does not block
  }
  if (output_ >= 0) ::close(output_);
}

void ChildProcess::read_output(std::chrono::milliseconds wait,
                               const std::function<void(std::string_view)>& output) {
  pollfd watched[] = {{output_, POLLIN, 0}, {signals_.descriptor(), POLLIN, 0}};
  ::poll(watched, 2, static_cast<int>(wait.count()));
  char piece[16384];
  // The loop is bounded, however much the program writes, so that signals are handled too.
  for (int i = 0; i < 64 && output_ >= 0; ++i) {
    const ssize_t got = ::read(output_, piece, sizeof piece);
    if (got > 0) {
      output({piece, static_cast<size_t>(got)});
    } else if (got < 0 && errno == EINTR) {
      continue;
    } else {
      // There is no output now, or, at its end, none will follow.
      if (got == 0) Pipe::close_end(output_);
      return;
    }
  }
}

void ChildProcess::send(int signal) const {
  if (!status_) ::kill(-id_, signal);
}

std::optional<int> ChildProcess::ended() {
  int status = 0;
  if (!status_ && ::waitpid(id_, &status, WNOHANG) == id_) status_ = status;
  return status_;
}

}  // namespace flux::cli

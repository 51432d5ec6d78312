#pragma once

#include <sys/types.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace flux::cli {

/// Makes SIGINT, SIGTERM, SIGCHLD and, unless it is ignored, SIGHUP readable instead of
/// interrupting, while it lives.
class SignalReader {
 public:
  SignalReader();
  ~SignalReader();
  SignalReader(const SignalReader&) = delete;
  SignalReader& operator=(const SignalReader&) = delete;

  int descriptor() const { return descriptor_; }
  /// Returns the next signal that has arrived, or nothing.
  std::optional<int> next() const;
  /// Returns the signal mask from before; for children.
  const sigset_t& mask_before() const { return before_; }

 private:
  sigset_t before_;
  int descriptor_ = -1;
};

struct Command {
  std::filesystem::path program;
  std::vector<std::string> arguments;
  std::map<std::string, std::string> environment;  // replaces variables of this process
};

/// A program that runs beside this one and ends with it, in a process group of its own: this
/// program passes on the signals of the terminal. Its standard input is empty, its output is read
/// here.
class ChildProcess {
 public:
  /// Throws kUnavailable when the program cannot be started. `signals` must outlive it.
  ChildProcess(const Command& command, const SignalReader& signals);
  /// Ends the program if it still runs.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t id() const { return id_; }
  /// Waits until there is output or a signal, or until `wait` has passed, and passes on the output.
  void read_output(std::chrono::milliseconds wait,
                   const std::function<void(std::string_view)>& output);
  /// Sends a signal to the program and the processes it started.
  void send(int signal) const;
  /// Returns the wait status, once the program has ended.
  std::optional<int> ended();

 private:
  const SignalReader& signals_;
  pid_t id_ = -1;
  int output_ = -1;
  std::optional<int> status_;
};

}  // namespace flux::cli

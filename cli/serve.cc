#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <optional>
#include <set>

#include "cli/child_process.h"
#include "cli/common.h"
#include "cli/ports.h"
#include "cli/python_serving.h"
#include "cli/server_log.h"
#include "cli/serving_files.h"
#include "support/error.h"
#include "support/log.h"

namespace flux::cli {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

constexpr int kSignalExit = 128;  // shells report 128 + signal
constexpr milliseconds kPollWait(100);
constexpr milliseconds kReadyWait(1000);

struct ServeOptions {
  std::string repository;
  int http_port = 8000;
  int grpc_port = 8001;
  int metrics_port = 8002;
  std::string address = "127.0.0.1";
  std::string backend_directory;
  std::string tritonserver;
  std::string python;
  std::vector<std::string> more;
};

/// Arguments of tritonserver that have an option here: if repeated after `--`, we would poll the
/// wrong port.
constexpr std::array<std::string_view, 7> kOwnArguments = {
    "--http-address", "--http-port",       "--grpc-address",     "--grpc-port",
    "--metrics-port", "--metrics-address", "--backend-directory"};

void check_more_arguments(const std::vector<std::string>& more) {
  if (!more.empty() && !more.front().starts_with('-')) {
    throw UsageError(fmt::format(
        "'{}' is one argument too many; put -- before what goes to tritonserver", more.front()));
  }
  for (const std::string& argument : more) {
    const std::string_view name = std::string_view(argument).substr(0, argument.find('='));
    if (std::find(kOwnArguments.begin(), kOwnArguments.end(), name) == kOwnArguments.end())
      continue;
    throw UsageError(fmt::format("{}: serve has an option for that; see --help", name));
  }
}

void check_ports(const ServeOptions& options) {
  std::set<int> used;
  for (const auto& [option, port] :
       {std::pair("--http-port", options.http_port), std::pair("--grpc-port", options.grpc_port),
        std::pair("--metrics-port", options.metrics_port)}) {
    if (port < 1 || port > 65535) {
      throw UsageError(fmt::format("{} {}: must be 1 to 65535", option, port));
    }
    if (!used.insert(port).second) {
      throw UsageError(fmt::format("{} {}: another of the three ports is the same", option, port));
    }
  }
  if (options.address.empty()) throw UsageError("--address is empty: use 127.0.0.1");
}

fs::path find_repository(const std::string& name) {
  check(fs::is_directory(name), ErrorCode::kNotFound,
        "{}: no such directory; make a model repository with: flux-triton convert CHECKPOINT "
        "REPOSITORY",
        name);
  check(is_repository(name), ErrorCode::kInvalidArgument,
        "{}: is no model repository; make one with: flux-triton convert CHECKPOINT REPOSITORY",
        name);
  return fs::canonical(name);
}

/// Builds the server's command line; `python`, where models run in Python, must outlive it.
Command server_command(const ServeOptions& options, const fs::path& repository,
                       const ServerProgram& server, const fs::path& backends,
                       const PythonServing* python) {
  Command command;
  command.program = server.program;
  command.arguments = {
      fmt::format("--model-repository={}", repository.string()),
      fmt::format("--backend-directory={}",
                  (python != nullptr ? python->backend_directory() : backends).string()),
      fmt::format("--http-address={}", options.address),
      fmt::format("--http-port={}", options.http_port),
      fmt::format("--grpc-address={}", options.address),
      fmt::format("--grpc-port={}", options.grpc_port),
      fmt::format("--metrics-address={}", options.address),
      fmt::format("--metrics-port={}", options.metrics_port),
      // A model that cannot be loaded ends the server, and its reason reaches the user.
      "--exit-on-error=true",
  };
  if (python != nullptr) {
    // The config.pbtxt files are complete; each model.py would be started twice to complete them.
    command.arguments.emplace_back("--disable-auto-complete-config");
    const char* path = std::getenv("PATH");
    command.environment["PATH"] =
        fmt::format("{}:{}", python->programs().string(), path == nullptr ? "" : path);
  }
  command.arguments.insert(command.arguments.end(), options.more.begin(), options.more.end());
  const fs::path more = python != nullptr ? python->libraries() : fs::path();
  const std::string libraries = library_path({server.libraries, more});
  if (!libraries.empty()) command.environment["LD_LIBRARY_PATH"] = libraries;
  return command;
}

std::string announcement(const ServeOptions& options, const fs::path& repository, pid_t id) {
  const std::string host = local_address(options.address);
  return fmt::format(
      "serving {} (process {}); Ctrl-C stops it\n"
      "HTTP     http://{}:{}\n"
      "gRPC     {}:{}\n"
      "metrics  http://{}:{}/metrics\n"
      "try      curl -s http://{}:{}/v2/models/bls/generate -d "
      "'{{\"prompt\": \"a lighthouse at dawn\", \"output_format\": \"png_base64\"}}'\n",
      one_line(repository.string()), id, host, options.http_port, host, options.grpc_port, host,
      options.metrics_port, host, options.http_port);
}

/// Writes the server's log to standard error; the log is lost where that cannot be written.
void pass_on(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, bytes.data(), bytes.size());
    if (written <= 0) return;
    bytes.remove_prefix(static_cast<size_t>(written));
  }
}

std::string describe_end(int status) {
  if (WIFSIGNALED(status)) return fmt::format("was ended by signal {}", WTERMSIG(status));
  return fmt::format("ended with exit code {}", WEXITSTATUS(status));
}

/// Runs the server from its start to its end.
class Serving {
 public:
  Serving(const ServeOptions& options, const fs::path& repository, const Command& command)
      : options_(options),
        repository_(repository),
        program_(command.program),
        server_(command, signals_) {}

  /// Returns the exit code.
  int run() {
    stop_if_interrupted();  // by a signal from before they were read here
    std::optional<int> status;
    while (!status) {
      server_.read_output(ready_ ? kReadyWait : kPollWait, [this](std::string_view bytes) {
        pass_on(bytes);
        log_.add(bytes);
      });
      forward_signals();
      status = server_.ended();
      if (!status && !ready_ && stops_ == 0) look_whether_ready();
    }
    server_.read_output(milliseconds(0), [this](std::string_view bytes) {
      pass_on(bytes);
      log_.add(bytes);
    });
    return exit_code(*status);
  }

 private:
  void forward_signals() {
    while (const auto signal = signals_.next()) {
      if (*signal == SIGCHLD) continue;
      ++stops_;
      server_.send(stops_ == 1 ? *signal : SIGKILL);
    }
  }

  void look_whether_ready() {
    ready_ = answers_ok(local_address(options_.address), options_.http_port, "/v2/health/ready");
    if (ready_) print_out(announcement(options_, repository_, server_.id()));
  }

  int exit_code(int status) const {
    if (!ready_ || stops_ > 1) {
      check(stops_ == 0, ErrorCode::kCancelled, "{}: {} as asked", program_.string(),
            describe_end(status));
      const std::string reason = log_.reason();
      fail(ErrorCode::kUnavailable, "{}: {} before it was ready{}{}", program_.string(),
           describe_end(status), reason.empty() ? "" : ": ", reason);
    }
    if (WIFEXITED(status)) return WEXITSTATUS(status);
    if (stops_ == 0) {
      log(LogLevel::kError, fmt::format("{}: {}", program_.string(), describe_end(status)));
    }
    return kSignalExit + WTERMSIG(status);
  }

  const ServeOptions& options_;
  const fs::path& repository_;
  const fs::path program_;
  SignalReader signals_;
  ChildProcess server_;
  ServerLog log_;
  bool ready_ = false;
  int stops_ = 0;  // number of requests to stop
};

int serve(const ServeOptions& options) {
  check_more_arguments(options.more);
  check_ports(options);
  const fs::path repository = find_repository(options.repository);
  const ServerProgram server = find_server(options.tritonserver);
  const fs::path backends = find_backend_directory(options.backend_directory);
  std::optional<PythonServing> python;
  if (!models_in_python(repository).empty()) python.emplace(backends, server, options.python);
  const Command command =
      server_command(options, repository, server, backends, python ? &*python : nullptr);
  check_port_is_free(options.address, options.http_port, "--http-port");
  check_port_is_free(options.address, options.grpc_port, "--grpc-port");
  check_port_is_free(options.address, options.metrics_port, "--metrics-port");
  stop_if_interrupted();
  return Serving(options, repository, command).run();
}

void add_port(CLI::App& command, const char* option, int& port, const char* what) {
  command.add_option(option, port, what)
      ->transform(whole_number())
      ->type_name("N")
      ->capture_default_str();
}

}  // namespace

void add_serve(CLI::App& app, Action& run) {
  auto options = std::make_shared<ServeOptions>();
  CLI::App* command =
      app.add_subcommand("serve", "starts tritonserver with a model repository, until Ctrl-C");
  command->add_option("REPOSITORY", options->repository, "directory that convert wrote")
      ->required();
  add_port(*command, "--http-port", options->http_port, "for HTTP");
  add_port(*command, "--grpc-port", options->grpc_port, "for gRPC");
  add_port(*command, "--metrics-port", options->metrics_port, "for Prometheus");
  command
      ->add_option("--address", options->address,
                   "where to listen; 0.0.0.0: for everybody who can reach this machine")
      ->type_name("ADDRESS")
      ->capture_default_str();
  command
      ->add_option("--backend-directory", options->backend_directory,
                   "holds flux/libtriton_flux.so [default: looked for near this program]")
      ->type_name("DIR");
  command
      ->add_option("--tritonserver", options->tritonserver,
                   "the server [default: $TRITONSERVER, PATH, /opt/tritonserver, or the Python "
                   "package nvidia-pytriton of $FLUX_TRITON_VENV, .venv-serving or python3]")
      ->type_name("FILE");
  command
      ->add_option("--python", options->python,
                   "the Python whose packages (torch, diffusers) model.py files use [default: "
                   "$FLUX_PYTHON, $VIRTUAL_ENV, or python3 on PATH]")
      ->type_name("FILE");
  command->add_option("ARGUMENTS", options->more, "after --: more arguments for tritonserver");
  command->callback([options, &run] {
    run = [options] {
      const int code = serve(*options);
      if (code != kDone) std::exit(code);
    };
  });
}

}  // namespace flux::cli

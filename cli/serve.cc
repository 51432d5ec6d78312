#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <optional>
#include <set>
#include <thread>

#include "cli/child_process.h"
#include "cli/common.h"
#include "cli/drain.h"
#include "cli/endpoints.h"
#include "cli/front_process.h"
#include "cli/help.h"
#include "cli/log_writer.h"
#include "cli/ports.h"
#include "cli/python_models.h"
#include "cli/python_serving.h"
#include "cli/server_arguments.h"
#include "cli/server_log.h"
#include "cli/serving_files.h"
#include "convert/model_directory.h"
#include "convert/repository_layout.h"
#include "pipeline/model_names.h"
#include "scheduling/step_policy.h"
#include "support/error.h"
#include "support/log.h"
#include "support/stop_signals.h"
#include "support/utf8.h"

namespace flux::cli {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

constexpr int kSignalExit = 128;  // shells report 128 + signal
constexpr milliseconds kPollWait(100);
constexpr milliseconds kReadyWait(1000);

struct ServeOptions {
  std::string repository;
  int64_t http_port = 8000;
  int64_t grpc_port = 8001;
  int64_t metrics_port = 8002;
  FrontOptions front;
  std::string address = "127.0.0.1";
  std::string backend_directory;
  std::string tritonserver;
  std::string python;
  std::string policy;
  std::vector<std::string> more;
};

void check_ports(const ServeOptions& options) {
  std::set<int> used;
  for (const auto& [option, port] :
       {std::pair("--http-port", options.http_port), std::pair("--grpc-port", options.grpc_port),
        std::pair("--metrics-port", options.metrics_port),
        std::pair("--front-port", options.front.port)}) {
    const bool is_off = port == 0 && std::string_view(option) == "--front-port";
    if (is_off) continue;
    if (port < 1 || port > 65535) {
      throw UsageError(fmt::format("{} {}: must be 1 to 65535", option, port));
    }
    if (!used.insert(port).second) {
      throw UsageError(fmt::format("{} {}: another of the ports is the same", option, port));
    }
  }
  if (options.address.empty()) throw UsageError("--address is empty: use 127.0.0.1");
}

/// REPOSITORY/NAME, as the other commands take it.
void refuse_part_of_repository(const std::string& name) {
  const fs::path path = fs::absolute(name).lexically_normal();
  for (const std::string& prefix : prefixes_of(path.parent_path())) {
    check(prefix != path.filename().string() + "_", ErrorCode::kInvalidArgument,
          "{}: is one checkpoint of a repository, and a server takes all of it: give {}", name,
          path.parent_path());
  }
}

fs::path find_repository(const std::string& name) {
  if (!fs::exists(name)) refuse_part_of_repository(name);
  check(fs::is_directory(name), ErrorCode::kNotFound,
        "{}: no such directory; make a model repository with: flux-triton convert CHECKPOINT "
        "REPOSITORY",
        name);
  check(!prefixes_of(name).empty(), ErrorCode::kInvalidArgument,
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
  if (!options.policy.empty()) {
    command.arguments.push_back(fmt::format("--backend-config=flux,policy={}", options.policy));
  }
  if (python != nullptr) {
    // The config.pbtxt files are complete; each model.py would be started twice to complete them.
    command.arguments.emplace_back("--disable-auto-complete-config");
    const char* path = std::getenv("PATH");
    command.environment["PATH"] =
        fmt::format("{}:{}", python->programs().string(), path == nullptr ? "" : path);
  }
  // With a heap for every few threads, memory that was freed piles up in all of them.
  if (std::getenv("MALLOC_ARENA_MAX") == nullptr) command.environment["MALLOC_ARENA_MAX"] = "2";
  command.arguments.insert(command.arguments.end(), options.more.begin(), options.more.end());
  const fs::path more = python != nullptr ? python->libraries() : fs::path();
  const std::string libraries = library_path({server.libraries, more});
  if (!libraries.empty()) command.environment["LD_LIBRARY_PATH"] = libraries;
  return command;
}

std::string describe_end(int status) {
  if (WIFSIGNALED(status)) return fmt::format("was ended by signal {}", WTERMSIG(status));
  return fmt::format("ended with exit code {}", WEXITSTATUS(status));
}

/// The end of a server that was asked to stop while it was about to start.
int end_unready() {
  log(LogLevel::kInfo, "stopped before the server was ready, as asked");
  return kDone;
}

/// Runs the server from its start to its end, and the front from when the server is ready until
/// before its end.
class Serving {
 public:
  /// `pipeline`: the model of the command to try; empty: none. `front`: nothing where there is
  /// none.
  Serving(const Endpoints& endpoints, const fs::path& repository, std::string pipeline,
          const Command& command, std::optional<Command> front)
      : endpoints_(endpoints),
        repository_(repository),
        pipeline_(std::move(pipeline)),
        program_(command.program),
        front_command_(std::move(front)),
        server_(command, signals_) {}

  /// Returns the exit code.
  int run() {
    if (interrupted()) return end_unready();  // by a signal from before they were read here
    std::optional<int> status;
    while (!status) {
      const bool waits = ready_ && !drain_ && !writer_.has_more();
      read_output(waits ? kReadyWait : kPollWait);
      writer_.flush();
      forward_signals();
      watch_front();
      if (drain_) {
        drain_->poll([this] {
          read_output(milliseconds(0));
          return log_.stops_models();
        });
      }
      if (log_.exit_timed_out()) end_late_server();
      status = server_.ended();
      if (!status && !ready_ && stops_ == 0) look_whether_ready();
    }
    read_output(milliseconds(0));
    return exit_code(*status);
  }

 private:
  /// A server that gave up waiting for a request may hang in its own end.
  void end_late_server() {
    constexpr std::chrono::seconds kPatience(5);
    const auto now = std::chrono::steady_clock::now();
    if (!gave_up_) gave_up_ = now;
    if (now - *gave_up_ > kPatience) server_.send(SIGKILL);
  }

  void read_output(milliseconds wait) {
    server_.read_output(wait, [this](std::string_view bytes) {
      writer_.add(bytes);
      log_.add(bytes);
    });
    if (!front_) return;
    front_->read_output(milliseconds(0), [this](std::string_view bytes) { writer_.add(bytes); });
  }

  void forward_signals() {
    while (const auto signal = signals_.next()) {
      if (*signal == SIGCHLD) continue;
      ++stops_;
      if (stops_ == 1) {
        std::this_thread::sleep_for(kOneStopRequest);
        while (signals_.next()) {  // the same request
        }
        stop_with(*signal);
      } else {
        if (front_) front_->send(SIGKILL);
        server_.send(SIGKILL);
      }
    }
  }

  /// The front first: what it has accepted still needs the server.
  void stop_with(int signal) {
    if (front_ && !front_->ended()) {
      front_->send(SIGTERM);
      server_signal_ = signal;
      return;
    }
    if (ready_) drain_.emplace(endpoints_);
    // The server knows the two others; SIGHUP would end it in the middle of its requests.
    server_.send(signal == SIGHUP ? SIGTERM : signal);
  }

  /// Notices the end of the front: the server follows, as was asked or because it came by itself.
  void watch_front() {
    if (!front_ || front_ended_) return;
    const auto status = front_->ended();
    if (!status) return;
    front_ended_ = true;
    if (stops_ == 0) {
      log(LogLevel::kError, fmt::format("{}: {}; the server is stopped, too",
                                        front_command_->program.string(), describe_end(*status)));
      front_failed_ = true;
      stops_ = 1;
      server_signal_ = SIGTERM;
    }
    if (stops_ == 1) stop_with(server_signal_);
  }

  void look_whether_ready() {
    if (!endpoints_.ready()) return;
    if (front_command_ && !front_) {
      front_.emplace(*front_command_, signals_);
      return;
    }
    if (front_ && !Connection(endpoints_.address, *endpoints_.front).is_open()) return;
    ready_ = true;
    print_out(fmt::format("serving {} (process {}); Ctrl-C stops it\n{}",
                          one_line(repository_.string()), server_.id(),
                          endpoints_.describe(pipeline_)));
  }

  int exit_code(int status) const {
    check(stops_ < 2, ErrorCode::kCancelled, "{}: {}: it was asked to stop a second time",
          program_.string(), describe_end(status));
    if (front_failed_) return kFailed;
    if (!ready_) {
      if (stops_ > 0) return end_unready();
      const std::string reason = log_.reason();
      fail(ErrorCode::kUnavailable, "{}: {} before it was ready{}{}", program_.string(),
           describe_end(status), reason.empty() ? "" : ": ", reason);
    }
    if (drain_ && (drain_->lost() || log_.exit_timed_out())) {
      const bool done = drain_->done();
      log(done ? LogLevel::kInfo : LogLevel::kError,
          fmt::format("{}: waited until its --exit-timeout-secs for {}", program_.string(),
                      done ? "open HTTP connections; all requests were answered"
                           : "requests that it had begun; those are lost"));
      return done ? kDone : kFailed;
    }
    if (WIFEXITED(status)) return WEXITSTATUS(status);
    if (stops_ == 0) {
      log(LogLevel::kError, fmt::format("{}: {}", program_.string(), describe_end(status)));
    }
    return kSignalExit + WTERMSIG(status);
  }

  const Endpoints& endpoints_;
  const fs::path& repository_;
  const std::string pipeline_;
  const fs::path program_;
  const std::optional<Command> front_command_;
  SignalReader signals_;
  ChildProcess server_;
  std::optional<ChildProcess> front_;
  LogWriter writer_;
  ServerLog log_;
  std::optional<Drain> drain_;
  std::optional<std::chrono::steady_clock::time_point> gave_up_;
  bool ready_ = false;
  bool front_ended_ = false;
  bool front_failed_ = false;
  int server_signal_ = 0;  // for the server, once the front has ended
  int stops_ = 0;          // number of requests to stop
};

/// The order of steps is that of the native pipelines; Triton's Python backend has none.
void check_policy(const std::string& policy, const std::vector<PythonModel>& models) {
  if (policy.empty()) return;
  for (const PythonModel& model : models) {
    const auto name = parse_model_name(model.name);
    if (!name || name->kind != "bls") continue;
    throw UsageError(fmt::format(
        "--policy {}: model {} runs in Python, which shares all steps; leave the option out",
        policy, model.name));
  }
}

/// The first pipeline of which the server loads all models; empty, and a warning, when there is
/// none.
std::string pipeline_to_try(const fs::path& repository, const LoadedModels& loaded) {
  for (const std::string& prefix : prefixes_of(repository)) {
    const bool whole = std::all_of(
        std::begin(kModelNames), std::end(kModelNames),
        [&](std::string_view kind) { return loaded.has(fmt::format("{}{}", prefix, kind)); });
    if (whole) return prefix + "bls";
  }
  log(LogLevel::kWarning,
      "--model-control-mode=explicit: no pipeline is loaded with all its models, so none can "
      "answer: "
      "add --load-model=NAME for each of them or --load-model='*', or load them through the "
      "server");
  return "";
}

int serve(ServeOptions options) {
  if (!options.policy.empty()) as_usage([&] { parse_step_policy(options.policy); });
  check_server_arguments(options.more, options.policy);
  check_ports(options);
  // The server takes a host name for 255.255.255.255.
  as_usage([&] { options.address = resolve_address(options.address); });
  Endpoints endpoints{local_address(options.address),
                      options.http_port,
                      options.grpc_port,
                      options.metrics_port,
                      {}};
  endpoints.heed(options.more);
  if (!endpoints.http && !endpoints.grpc) {
    throw UsageError("--allow-http and --allow-grpc are both false: leave one of them on");
  }
  const fs::path repository = find_repository(options.repository);
  const LoadedModels loaded(options.more);
  if (loaded.are_all()) check_all_models(repository);
  const ServerProgram server = find_server(options.tritonserver);
  const fs::path backends = find_backend_directory(options.backend_directory);
  std::optional<PythonServing> python;
  const std::vector<PythonModel> models = models_in_python(repository);
  check_policy(options.policy, models);
  if (!models.empty()) python.emplace(backends, server, options.python, models);
  const std::optional<Command> front =
      front_command(options.front, repository, options.address, endpoints);
  if (front) endpoints.front = options.front.port;
  if (!front && !options.front.api_key_file.empty()) {
    throw UsageError(
        "--api-key-file: there is no HTTP front that would ask for keys; leave the option out");
  }
  const Command command =
      server_command(options, repository, server, backends, python ? &*python : nullptr);
  as_usage([&] {
    check_port_is_free(options.address, options.http_port, "--http-port");
    check_port_is_free(options.address, options.grpc_port, "--grpc-port");
    check_port_is_free(options.address, options.metrics_port, "--metrics-port");
    if (front) check_port_is_free(options.address, options.front.port, "--front-port");
  });
  if (interrupted()) return end_unready();
  return Serving(endpoints, repository, pipeline_to_try(repository, loaded), command, front).run();
}

void add_port(CLI::App& command, const char* option, int64_t& port, const char* what) {
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
  add_port(*command, "--front-port", options->front.port,
           "for clients of OpenAI's images API, and a page to generate images with; 0: none");
  command
      ->add_option("--api-key-file", options->front.api_key_file,
                   "keys, one a line, of which clients of --front-port must show one")
      ->type_name("FILE");
  command
      ->add_option("--max-waiting", options->front.max_waiting,
                   "requests at --front-port that may wait for each pipeline")
      ->transform(whole_number(0, 100000))
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option("--address", options->address,
                   "where to listen; 0.0.0.0: for everybody who can reach this machine")
      ->type_name("ADDRESS")
      ->capture_default_str();
  command
      ->add_option("--policy", options->policy,
                   "who takes the next step: share (all images, in every step), fifo (first come, "
                   "first served) or least-work (the least remaining work, with ageing) [default: "
                   "least-work]")
      ->type_name("NAME");
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
      ->add_option(
          "--python", options->python,
          "the Python whose packages (numpy, torch, diffusers) model.py files use [default: "
          "$FLUX_PYTHON, $VIRTUAL_ENV, or python3 on PATH]")
      ->type_name("FILE");
  group_options(*command, "Front", {"--front-port", "--api-key-file", "--max-waiting"});
  group_options(*command, "Programs", {"--backend-directory", "--tritonserver", "--python"});
  add_examples(*command,
               {"serve models", "serve models --address 0.0.0.0 -- --exit-timeout-secs=60"});
  command->add_option("ARGUMENTS", options->more, "after --: more arguments for tritonserver");
  command->callback([options, &run] {
    run = [options] {
      const int code = serve(*options);
      if (code != kDone) std::exit(code);
    };
  });
}

}  // namespace flux::cli

#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>

#include "cli/option_values.h"
#include "flux/flux.h"

/// Common parts of the subcommands: options, exit codes, output, interruption.
namespace flux::cli {

/// Exit codes of the program.
enum ExitCode { kDone = 0, kFailed = 1, kWrongUsage = 2, kInterrupted = 130 };

/// A command line that asks for something that is not allowed; `what()` is one line.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Runs `parse`; an invalid argument thrown there becomes a UsageError.
void as_usage(const std::function<void()>& parse);

/// Options of every command that computes.
struct ComputeOptions {
  std::string source;
  ModelOptions model;
};

/// Adds the options that give parts of a checkpoint: --transformer, --vae, --clip, --t5,
/// --tokenizers and --variant.
void add_part_options(CLI::App& command, PartOptions& parts);
/// Adds SOURCE to a command, and add_part_options().
void add_source(CLI::App& command, std::string& source, PartOptions& parts);
/// Adds --quantization.
void add_quantization_option(CLI::App& command, std::string& quantization);
/// Adds --attention.
void add_attention_option(CLI::App& command, std::string& attention);
/// Adds SOURCE, --dtype, --device, --gpu-memory and --threads.
void add_compute_options(CLI::App& command, ComputeOptions& options);

/// Validates options that take a number of bytes, above 0, with or without a unit.
CLI::Validator byte_size();

/// Makes SIGINT, SIGTERM and, unless it is ignored, SIGHUP set interrupted(); a second request to
/// stop ends the process.
void watch_for_interruption();
bool interrupted();
/// Throws kCancelled when interrupted.
void stop_if_interrupted();

/// Makes closed standard streams safe: no file that is opened later takes their place.
void guard_standard_streams();
/// Writes one line to standard error: "flux-triton: warning: ...".
void report(LogLevel level, std::string_view message);
/// Writes text to standard output at once. Throws kUnavailable when it cannot be written.
void print_out(std::string_view text);
/// Throws UsageError for a file that JSON cannot name: --json would report another name.
void check_json_name(const char* option, const std::string& file);
/// Writes an object and a newline to standard output.
void print_json(const nlohmann::json& object);

/// Runs `work` and returns the seconds it took.
double seconds_of(const std::function<void()>& work);
/// Returns the peak memory of this process in bytes (VmHWM).
int64_t peak_memory_bytes();
/// Formats a number of bytes, e.g. "1.5 GiB".
std::string format_bytes(int64_t bytes);
/// Formats a count with its noun, e.g. "1 step" or "4 steps".
std::string counted(int64_t count, std::string_view noun);
/// "bf16", or "bf16 with products and attention of fp8".
std::string precision_text(std::string_view dtype, std::string_view quantization,
                           std::string_view attention);
/// Puts a text on one line by escaping control characters.
std::string one_line(std::string_view text);

/// The subcommands: each adds itself to `app` and, when chosen, stores its work in `run`.
using Action = std::function<void()>;
void add_generate(CLI::App& app, Action& run);
void add_run_stage(CLI::App& app, Action& run);
void add_check(CLI::App& app, Action& run);
void add_tokenize(CLI::App& app, Action& run);
void add_inspect(CLI::App& app, Action& run);
void add_bench(CLI::App& app, Action& run);
void add_convert(CLI::App& app, Action& run);
void add_serve(CLI::App& app, Action& run);
/// `front` for the list of commands alone: become_front() runs it.
void add_front(CLI::App& app, Action& run);

/// Replaces this program with flux-triton-front, which reads its options itself. `arguments` begins
/// with the name of the command and ends with a null. Throws kNotFound, kUnavailable.
[[noreturn]] void become_front(char** arguments);

}  // namespace flux::cli

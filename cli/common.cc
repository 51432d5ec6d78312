#include "cli/common.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <sstream>

#include "support/byte_size.h"
#include "support/default_threads.h"
#include "support/error.h"
#include "support/stop_signals.h"
#include "support/stopwatch.h"
#include "support/utf8.h"
#include "weights/weight_files.h"

namespace flux::cli {
namespace {

volatile std::sig_atomic_t interruption = 0;

void on_signal(int signal) {
  static StopRequests requests;
  interruption = signal;
  if (requests.add() < 2) return;
  // A user who does not want to wait: the default action, once this handler has returned.
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

/// The first text of a value that is not UTF-8: paths may hold any bytes. Null where there is none.
const std::string* find_non_utf8(const nlohmann::json& value) {
  if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    return find_invalid_utf8(text) ? &text : nullptr;
  }
  if (!value.is_structured()) return nullptr;
  for (const nlohmann::json& part : value) {
    if (const std::string* text = find_non_utf8(part)) return text;
  }
  return nullptr;
}

}  // namespace

void as_usage(const std::function<void()>& parse) {
  try {
    parse();
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kInvalidArgument) throw UsageError(error.what());
    throw;
  }
}

void add_part_options(CLI::App& command, PartOptions& parts) {
  const auto add = [&](const char* name, std::filesystem::path& part, const char* what) {
    command.add_option(name, part, fmt::format("{} [default: of SOURCE, or beside it]", what))
        ->type_name("PATH")
        ->group("Parts");
  };
  add("--transformer", parts.transformer, "file or directory of the transformer");
  add("--vae", parts.vae, "file or directory of the autoencoder");
  add("--clip", parts.clip, "file or directory of the CLIP text encoder");
  add("--t5", parts.t5, "file or directory of the T5 text encoder");
  add("--tokenizers", parts.tokenizers, "directory of tokenizer/ and tokenizer_2/");
  command
      .add_option("--variant", parts.variant,
                  "variant of the weights' files to take where a directory has it: fp16 is "
                  "model.fp16.safetensors [default: the plain files]")
      ->check([](const std::string& text) -> std::string {
        if (WeightFiles::is_variant(text)) return {};
        return fmt::format("'{}': must be letters, digits and _, such as fp16", text);
      })
      ->type_name("NAME")
      ->group("Parts");
}

void add_source(CLI::App& command, std::string& source, PartOptions& parts) {
  command
      .add_option("SOURCE", source,
                  "diffusers FLUX checkpoint, model repository made by convert, or file of weights "
                  "(.safetensors, .gguf)")
      ->required();
  add_part_options(command, parts);
}

void add_quantization_option(CLI::App& command, std::string& quantization) {
  command
      .add_option("--quantization", quantization,
                  "none, or fp8: weights and activations of the transformer's and T5's large "
                  "products in e4m3, with a scale for each row; weights are made so as they load")
      ->type_name("NAME")
      ->capture_default_str();
}

void add_attention_option(CLI::App& command, std::string& attention) {
  command
      .add_option(
          "--attention", attention,
          "bf16 (that of --dtype), or fp8: the transformer's queries, keys, values and their "
          "weights in e4m3")
      ->type_name("NAME")
      ->capture_default_str();
}

void add_compute_options(CLI::App& command, ComputeOptions& options) {
  add_source(command, options.source, options.model.parts);
  command.add_option("--dtype", options.model.dtype, "f32 or bf16 to compute in")
      ->type_name("DTYPE")
      ->capture_default_str();
  add_quantization_option(command, options.model.quantization);
  add_attention_option(command, options.model.attention);
  command.add_option("--device", options.model.device, "auto, cpu or cuda[:N]")
      ->type_name("DEVICE")
      ->capture_default_str();
  command
      .add_option(
          "--gpu-memory", options.model.gpu_memory,
          "cap on GPU memory, for example 20GiB: models that do not fit together are evicted "
          "and reloaded as needed, and large images are decoded in tiles")
      ->transform(byte_size())
      ->type_name("SIZE");
  command
      .add_option("--threads", options.model.threads,
                  "CPU threads; 0: one for each physical core. The result does not depend on it")
      ->type_name("N")
      ->transform(whole_number(0, kMaxThreads))
      ->capture_default_str();
}

CLI::Validator byte_size() {
  const auto normalize = [](std::string& text) -> std::string {
    try {
      text = std::to_string(parse_byte_size(text));
    } catch (const Error& error) {
      return error.what();
    }
    return {};
  };
  return CLI::Validator(normalize, "", "byte_size");
}

void watch_for_interruption() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  // A terminal that closes must not leave half-written files either.
  if (!hangup_is_ignored()) sigaction(SIGHUP, &action, nullptr);
  // write() reports a reader that is gone; the signal would end the process silently.
  struct sigaction ignore {};
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &ignore, nullptr);
  sigaction(SIGXFSZ, &ignore, nullptr);  // likewise for a file that may not grow
}

bool interrupted() { return interruption != 0; }

void stop_if_interrupted() {
  check(!interrupted(), ErrorCode::kCancelled, "cancelled by signal {}", int{interruption});
}

void report(LogLevel level, std::string_view message) {
  constexpr const char* kKinds[] = {"info", "warning", "error"};
  fmt::print(stderr, "flux-triton: {}: {}\n", kKinds[static_cast<size_t>(level)],
             one_line(message));
}

void guard_standard_streams() {
  for (int stream = 0; stream <= 2; ++stream) {
    // open() takes the lowest free number, which is `stream`. Read-only, so that writing still
    // fails.
    if (::fcntl(stream, F_GETFD) == -1 && errno == EBADF) ::open("/dev/null", O_RDONLY);
  }
}

void print_out(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDOUT_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    check(written > 0, ErrorCode::kUnavailable, "standard output: cannot be written: {}",
          std::strerror(written < 0 ? errno : ENOSPC));
    text.remove_prefix(static_cast<size_t>(written));
  }
}

void check_json_name(const char* option, const std::string& file) {
  if (!find_invalid_utf8(file)) return;
  throw UsageError(fmt::format(
      "{} {}: the name is not valid UTF-8, which --json cannot report; choose another name", option,
      file));
}

void print_json(const nlohmann::json& object) {
  if (const std::string* text = find_non_utf8(object)) {
    throw UsageError(fmt::format(
        "{}: is not valid UTF-8, which --json cannot report; rename it, or leave --json out",
        *text));
  }
  print_out(object.dump(2) + "\n");
}

double seconds_of(const std::function<void()>& work) {
  Stopwatch stopwatch;
  work();
  return stopwatch.lap();
}

int64_t peak_memory_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (!line.starts_with("VmHWM:")) continue;
    int64_t kibibytes = 0;
    std::istringstream(line.substr(6)) >> kibibytes;
    return kibibytes * 1024;
  }
  return 0;
}

std::string format_bytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string precision_text(std::string_view dtype, std::string_view quantization,
                           std::string_view attention) {
  const char* what = "";
  if (quantization == "fp8") what = attention == "fp8" ? "products and attention" : "products";
  if (quantization != "fp8" && attention == "fp8") what = "attention";
  return *what == 0 ? std::string(dtype) : fmt::format("{} with {} of fp8", dtype, what);
}

std::string counted(int64_t count, std::string_view noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

std::string one_line(std::string_view text) {
  std::string line;
  for (const char c : readable_message(text)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      line += fmt::format("\\x{:02x}", byte);
    } else {
      line += c;
    }
  }
  return line;
}

}  // namespace flux::cli

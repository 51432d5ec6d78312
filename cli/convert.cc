#include <algorithm>
#include <charconv>
#include <chrono>
#include <set>

#include "cli/common.h"
#include "cli/help.h"
#include "cli/progress.h"
#include "convert/repository.h"
#include "convert/repository_layout.h"
#include "ops/registry.h"
#include "pipeline/request.h"
#include "support/error.h"
#include "support/utf8.h"

namespace flux::cli {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxBatchSize = 1024;
constexpr int kMaxInstances = 64;
constexpr int kMaxQueueSize = 1'000'000;
constexpr std::chrono::microseconds kShortestQueueTimeout = std::chrono::milliseconds(1);
constexpr std::chrono::microseconds kLongestQueueTimeout = std::chrono::hours(7 * 24);

struct ConvertCommand {
  std::string checkpoint;
  PartOptions parts;
  std::string repository;
  std::string backend = "native";
  std::vector<std::string> stages;  // NAME=BACKEND
  std::string dtype = "as stored";
  std::string quantization = "none";
  std::string attention = "bf16";
  std::string device = "auto";
  std::string weights = "link";
  std::string default_size;
  std::string name;
  int64_t max_batch_size = 8;
  int64_t instances = 1;
  int64_t max_queue_size = ServingOptions().max_queue_size;
  std::string queue_timeout = "10m";
  bool force = false;
};

int in_range(const char* option, int64_t value, int smallest, int largest) {
  if (value >= smallest && value <= largest) return static_cast<int>(value);
  throw UsageError(fmt::format("{} {}: must be {} to {}", option, value, smallest, largest));
}

/// Reads a whole number with a unit. Triton counts microseconds, people seldom do: without a unit
/// 30 would be a timeout that refuses all requests that wait.
std::chrono::microseconds parse_queue_timeout(const std::string& text) {
  constexpr std::pair<std::string_view, std::chrono::microseconds> kUnits[] = {
      {"us", std::chrono::microseconds(1)}, {"ms", std::chrono::milliseconds(1)},
      {"s", std::chrono::seconds(1)},       {"m", std::chrono::minutes(1)},
      {"h", std::chrono::hours(1)},
  };
  int64_t number = 0;
  const char* last = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), last, number);
  const std::string_view unit(end, static_cast<size_t>(last - end));
  for (const auto& [name, length] : kUnits) {
    if (error != std::errc() || unit != name) continue;
    // Divided, because the product may not fit.
    if (number >= 0 && number <= kLongestQueueTimeout / length &&
        number * length >= kShortestQueueTimeout) {
      return number * length;
    }
  }
  throw UsageError(fmt::format(
      "--queue-timeout {}: give a whole number with its unit, us, ms, s, m or h: 1ms to 168h",
      excerpt(text)));
}

void set_sizes(const std::string& default_size, const FluxConfig& config, ServingOptions& serving) {
  const RequestLimits limits = limits_for(config);
  serving.default_size = {limits.default_height, limits.default_width};
  serving.max_side = limits.max_pixels_per_side;
  if (default_size.empty()) return;
  const auto size = parse_image_size(default_size);
  if (!size) {
    throw UsageError(fmt::format(
        "--default-size {}: give height and width in pixels, in this order: 768x1024 is 1024 wide",
        excerpt(default_size)));
  }
  as_usage([&] { check_image_size("--default-size", *size, config); });
  serving.default_size = *size;
}

/// Returns the models that run in Python: all or none by --backend, then changed by --stage.
std::set<std::string, std::less<>> parse_backends(const ConvertCommand& command) {
  std::set<std::string, std::less<>> python;
  if (command.backend == "python") python.insert(std::begin(kModelNames), std::end(kModelNames));
  std::set<std::string> seen;
  for (const std::string& stage : command.stages) {
    const size_t equals = std::min(stage.find('='), stage.size());
    const std::string name = stage.substr(0, equals);
    const std::string backend = stage.substr(std::min(equals + 1, stage.size()));
    const bool known =
        std::find(std::begin(kModelNames), std::end(kModelNames), name) != std::end(kModelNames);
    if (!known || (backend != "python" && backend != "native")) {
      throw UsageError(fmt::format("--stage {}: give NAME=python or NAME=native, with a NAME of {}",
                                   excerpt(stage), fmt::join(kModelNames, ", ")));
    }
    if (!seen.insert(name).second) {
      throw UsageError(
          fmt::format("--stage {}: {} is given twice; leave one of them out", stage, name));
    }
    if (backend == "python") {
      python.insert(name);
    } else {
      python.erase(name);
    }
  }
  return python;
}

/// Returns what stands before the models' names.
std::string parse_name(const std::string& name) {
  if (name.empty()) return "";
  constexpr size_t kLongest = 64;
  const bool allowed = std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  });
  if (!allowed || name.size() > kLongest || name.front() == '.' || name.front() == '-') {
    throw UsageError(fmt::format(
        "--name {}: must be letters, digits, - _ and ., at most {}, and begin with a letter, a "
        "digit or _",
        excerpt(name), kLongest));
  }
  return name + "_";
}

ConvertOptions parse_options(const ConvertCommand& command) {
  if (command.repository.empty()) throw UsageError("REPOSITORY is empty: name a directory");
  ConvertOptions options;
  options.serving.max_batch_size =
      in_range("--max-batch-size", command.max_batch_size, 1, kMaxBatchSize);
  options.serving.instances = in_range("--instances", command.instances, 1, kMaxInstances);
  options.serving.max_queue_size =
      in_range("--max-queue-size", command.max_queue_size, 0, kMaxQueueSize);
  options.serving.queue_timeout = parse_queue_timeout(command.queue_timeout);
  options.serving.in_python = parse_backends(command);
  options.serving.prefix = parse_name(command.name);
  options.replace = command.force;
  if (command.weights == "copy") options.weights = Weights::kCopy;
  if (command.weights == "reference") options.weights = Weights::kReference;
  as_usage([&] {
    options.serving.device = parse_device(command.device, Machine::kAnother);
    options.serving.every_gpu = command.device.find(':') == command.device.npos;
    if (command.dtype != "as stored") {
      options.serving.dtype = parse_compute_dtype(command.dtype);
    }
    options.serving.quantization = parse_quantization(command.quantization);
    options.serving.attention = parse_attention(command.attention);
    for (const std::string& model : options.serving.in_python) {
      check(options.serving.quantization == Quantization::kNone || !has_quantization(model),
            ErrorCode::kInvalidArgument,
            "--quantization {}: model {} is to run in Python, which computes without; leave one of "
            "them out",
            command.quantization, model);
      check(
          options.serving.attention == AttentionPrecision::kSame || !has_attention_precision(model),
          ErrorCode::kInvalidArgument,
          "--attention {}: model {} is to run in Python, which computes without; leave one of them "
          "out",
          command.attention, model);
    }
  });
  return options;
}

/// Shows "copying 1.2 of 23.8 GiB [###-------]  310 MiB/s".
class CopyProgress {
 public:
  void update(int64_t done, int64_t total) {
    const auto now = std::chrono::steady_clock::now();
    if (now - shown_ < std::chrono::milliseconds(100)) return;
    shown_ = now;
    constexpr int kWidth = 28;
    const double seconds = std::chrono::duration<double>(now - start_).count();
    const auto filled =
        static_cast<int>(kWidth * std::min(done, total) / std::max<int64_t>(total, 1));
    progress_.phase(fmt::format("copying {} of {} [{:#<{}}{:-<{}}]  {}/s", format_bytes(done),
                                format_bytes(total), "", filled, "", kWidth - filled,
                                format_bytes(static_cast<int64_t>(done / seconds))));
  }

 private:
  Progress progress_{Progress::Mode::kAutomatic};
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point shown_ = start_;
};

std::string report(const ConvertCommand& command, const ConvertOptions& options,
                   const ConvertResult& result) {
  const char* how = "linked";
  if (options.weights == Weights::kCopy) how = "copied";
  if (options.weights == Weights::kReference) how = "left where they are";
  const ServingOptions& serving = options.serving;
  const std::string python = serving.in_python.empty()
                                 ? ""
                                 : fmt::format("in Python, with torch and diffusers: {}\n",
                                               fmt::join(serving.in_python, ", "));
  return fmt::format(
      "wrote {}: {} models{}, {} files, {} of weights {}\n"
      "{}computes in {} on {}; batches of up to {}; default size {}x{} (height x width)\n"
      "serve it: flux-triton serve {}\n",
      one_line(result.repository.string()), result.models,
      serving.prefix.empty() ? "" : fmt::format(" ({}bls, ...)", serving.prefix), result.files,
      format_bytes(result.weight_bytes), how, python,
      precision_text(name_of(serving.dtype), name_of(serving.quantization),
                     name_of(serving.attention)),
      to_string(serving.device), serving.max_batch_size, serving.default_size.height,
      serving.default_size.width, one_line(command.repository));
}

void run_convert(const ConvertCommand& command) {
  ConvertOptions options = parse_options(command);
  const auto checkpoint = open_source(command.checkpoint, command.parts);
  if (command.dtype == "as stored") options.serving.dtype = checkpoint->stored_dtype();
  set_sizes(command.default_size, checkpoint->config(), options.serving);
  ConvertResult result;
  {
    CopyProgress progress;
    ConvertObserver observer;
    observer.poll = stop_if_interrupted;
    observer.on_copy = [&](int64_t done, int64_t total) { progress.update(done, total); };
    result = convert_checkpoint(*checkpoint, command.repository, options, observer);
  }
  print_out(report(command, options, result));
}

void add_options(CLI::App& command, ConvertCommand& options) {
  command
      .add_option("CHECKPOINT", options.checkpoint,
                  "diffusers FLUX checkpoint, or file of weights (.safetensors, .gguf)")
      ->required();
  command.add_option("REPOSITORY", options.repository, "the directory to write")->required();
  add_part_options(command, options.parts);
  command
      .add_option("--backend", options.backend,
                  "native: this program's engine; python: model.py files over "
                  "diffusers")
      ->check(CLI::IsMember({"native", "python"}))
      ->capture_default_str();
  command
      .add_option("--stage", options.stages,
                  "the backend of one model, bls included: bls=python, vae_decoder=native; "
                  "repeatable")
      ->type_name("NAME=BACKEND");
  command
      .add_option("--name", options.name,
                  "put NAME_ before the models' names, so that one server can hold the models of "
                  "several checkpoints; REPOSITORY may hold others already [default: none]")
      ->type_name("NAME");
  command
      .add_option(
          "--default-size", options.default_size,
          "pixels of an image whose size is not given, the HEIGHT first (files and messages say "
          "WIDTHxHEIGHT of an image) [default: the checkpoint's, FLUX: 1024x1024]")
      ->type_name("HEIGHTxWIDTH");
  command
      .add_option("--dtype", options.dtype,
                  "f32, bf16 or, where all models run in Python, f16 to compute in")
      ->type_name("DTYPE")
      ->capture_default_str();
  add_quantization_option(command, options.quantization);
  add_attention_option(command, options.attention);
  command
      .add_option("--device", options.device,
                  "auto, cpu, cuda (instances on every GPU) or cuda:N (on that one)")
      ->type_name("DEVICE")
      ->capture_default_str();
  command
      .add_option("--max-batch-size", options.max_batch_size,
                  "rows that one execution of a model may take")
      ->transform(whole_number())
      ->type_name("N")
      ->capture_default_str();
  command
      .add_option("--instances", options.instances,
                  "executions at once of each stage; of the pipeline 32 times as many (in Python "
                  "four times)")
      ->transform(whole_number())
      ->type_name("N")
      ->capture_default_str();
  command
      .add_option(
          "--max-queue-size", options.max_queue_size,
          "requests that may wait for an execution of the pipeline; further ones are refused "
          "at once (503). 0: any number")
      ->transform(whole_number())
      ->type_name("N")
      ->capture_default_str();
  command
      .add_option("--queue-timeout", options.queue_timeout,
                  "how long a request may wait before it is refused (503), for example 500ms, 30s, "
                  "10m or 1h; a shorter timeout of its own wins")
      ->type_name("TIME")
      ->capture_default_str();
  command
      .add_option("--weights", options.weights,
                  "link: hard links, same filesystem required; copy: self-contained; reference: "
                  "symbolic links to the checkpoint, which then must stay")
      ->check(CLI::IsMember({"link", "copy", "reference"}))
      ->capture_default_str();
  command.add_flag("--force", options.force, "replace an existing repository");
}

}  // namespace

void add_convert(CLI::App& app, Action& run) {
  auto options = std::make_shared<ConvertCommand>();
  CLI::App* command =
      app.add_subcommand("convert", "writes a Triton model repository made from a checkpoint");
  add_options(*command, *options);
  group_options(*command, kComputeGroup, {"--dtype", "--quantization", "--attention", "--device"});
  group_options(*command, "Serving",
                {"--max-batch-size", "--instances", "--max-queue-size", "--queue-timeout"});
  group_options(*command, kOutputGroup, {"--weights", "--force"});
  add_examples(*command,
               {"convert FLUX.1-dev models",
                "convert FLUX.1-schnell models --name schnell --dtype bf16 --weights copy"});
  command->callback([options, &run] { run = [options] { run_convert(*options); }; });
}

}  // namespace flux::cli

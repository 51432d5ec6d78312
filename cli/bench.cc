#include <algorithm>
#include <optional>

#include "cli/common.h"
#include "cli/help.h"
#include "cli/made_inputs.h"
#include "cli/progress.h"
#include "cli/request_options.h"
#include "cli/session.h"
#include "pipeline/request_fields.h"
#include "pipeline/text_to_image.h"
#include "support/error.h"

namespace flux::cli {
namespace {

constexpr int kMaxRuns = 10000;

struct BenchOptions {
  ComputeOptions compute;
  Request request;
  bool each_its_own = false;  // adapter
  std::string image;          // a file; empty: none
  int64_t runs = 5;
  int64_t warmup = 1;
  bool json = false;
};

struct Measurement {
  std::string name;
  int calls = 1;  // in one image
  double median = 0;
  double min = 0;
  double max = 0;
};

Measurement measure(std::string name, int calls, const BenchOptions& options, Context& ctx,
                    const std::function<void()>& work) {
  std::vector<double> seconds;
  for (int64_t run = -options.warmup; run < options.runs; ++run) {
    stop_if_interrupted();
    finish(ctx);  // leaves the GPU idle
    const double time = seconds_of(work);
    if (run >= 0) seconds.push_back(time);
  }
  std::sort(seconds.begin(), seconds.end());
  const size_t middle = seconds.size() / 2;
  const double median =
      seconds.size() % 2 == 1 ? seconds[middle] : (seconds[middle - 1] + seconds[middle]) / 2;
  return {std::move(name), calls, median, seconds.front(), seconds.back()};
}

/// Moves a step's tensors to the device of the stages. A stage's time ends when a row of its result
/// is in host memory, because a GPU is asynchronous.
TransformerInput on_device(Context& ctx, TransformerInput input) {
  ImageTokens& image = input.images[0];
  for (ConstTensor* tensor : {&image.hidden_states, &image.img_ids, &input.encoder_hidden_states,
                              &input.txt_ids, &input.pooled_projections}) {
    *tensor = to_device(ctx, *tensor);
  }
  image.noise_pred = new_tensor(ctx, image.noise_pred.shape(), image.noise_pred.dtype());
  return input;
}

struct BenchReport {
  std::vector<Measurement> stages;
  std::optional<Measurement> launching;  // of a step: until the host is free again, on a GPU
  Measurement image;
  double load_seconds = 0;
  int64_t weight_bytes = 0;
  int64_t peak_bytes = 0;  // while generating images

  /// Share of one stage in the time of all stages of an image.
  double share(const Measurement& stage) const {
    double all = 0;
    for (const Measurement& m : stages) all += m.median * m.calls;
    return all > 0 ? stage.median * stage.calls / all : 0;
  }
};

/// What an image is started from, where there is one.
ConstTensor made_image(const ImageParams& params) {
  const Tensor image = Tensor::allocate({3, params.height, params.width}, DType::kF32);
  for (int64_t i = 0; i < image.numel(); ++i) {
    image.data<float>()[i] = static_cast<float>(i % 511) / 255.0f - 1.0f;
  }
  return image;
}

void measure_stages(Session& session, const ImageParams& params, const BenchOptions& options,
                    Progress& progress, BenchReport& report) {
  const FluxConfig& config = session.checkpoint->config();
  const DType dtype = session.options.dtype;
  LocalStages& stages = *session.stages;
  const ImageSize size{params.height, params.width, params.max_sequence_length};
  Context& ctx = stages.context();
  const TransformerInput step = on_device(ctx, made_transformer_input(config, dtype, size));
  const Tensor latents = to_device(ctx, made_latents(config, dtype, size));
  const auto launch_step = [&] { stages.transformer({&step, 1}); };
  const std::pair<StageKind, std::function<void()>> calls[] = {
      {StageKind::kClipEncoder, [&] { to_host(ctx, stages.encode_clip(params.prompt, nullptr)); }},
      {StageKind::kT5Encoder,
       [&] {
         to_host(ctx, stages.encode_t5(params.prompt_2, params.max_sequence_length, nullptr)[0]);
       }},
      {StageKind::kDitTransformer,
       [&] {
         launch_step();
         to_host(ctx, step.images[0].noise_pred[0]);
       }},
      {StageKind::kVaeDecoder, [&] { to_host(ctx, stages.decode(latents)[0][0]); }},
  };
  for (const auto& [stage, work] : calls) {
    progress.phase(fmt::format("timing {}", name_of(stage)));
    const int count = stage == StageKind::kDitTransformer ? params.num_inference_steps : 1;
    report.stages.push_back(measure(std::string(name_of(stage)), count, options, ctx, work));
  }
  if (!options.image.empty()) {
    progress.phase("timing vae_encoder");
    const ConstTensor image = made_image(params);
    report.stages.push_back(measure("vae_encoder", 1, options, ctx,
                                    [&] { to_host(ctx, stages.encode_image(image, {})[0]); }));
  }
  if (session.options.device.is_cpu()) return;
  progress.phase("timing the launch of a step");
  report.launching =
      measure("launching a step", params.num_inference_steps, options, ctx, launch_step);
}

/// The images that are generated at once.
std::vector<ImageParams> rows_of(const ImageParams& params, const BenchOptions& options) {
  if (!options.each_its_own) return {params};
  std::vector<ImageParams> rows;
  for (const AdapterChoice& adapter : params.adapters) {
    rows.push_back(params);
    rows.back().adapters = {adapter};
  }
  return rows;
}

BenchReport measure_all(Session& session, const ImageParams& params, const BenchOptions& options) {
  const std::vector<ImageParams> rows = rows_of(params, options);
  Progress progress(Progress::Mode::kAutomatic);
  BenchReport report;
  report.load_seconds = seconds_of([&] {
    for (const StageKind stage : session.checkpoint->family().stages) {
      stop_if_interrupted();
      progress.phase(fmt::format("loading {}", name_of(stage)));
      session.stages->load(stage);
      report.weight_bytes += session.stages->weight_bytes(stage);
    }
  });
  GenerateObserver observer;
  observer.cancelled = interrupted;
  progress.phase("timing whole images");
  report.image = measure("whole image", 1, options, session.stages->context(), [&] {
    generate(*session.stages, session.checkpoint->config(), session.options.dtype, rows, observer);
  });
  report.peak_bytes = peak_memory_bytes();
  measure_stages(session, params, options, progress, report);
  return report;
}

nlohmann::json to_json(const Measurement& m) {
  return {{"median", m.median}, {"min", m.min}, {"max", m.max}, {"calls", m.calls}};
}

nlohmann::json report_json(const BenchReport& report, const Session& session,
                           const ImageParams& params, const BenchOptions& options) {
  auto stages = nlohmann::json::object();
  for (const Measurement& stage : report.stages) {
    stages[stage.name] = to_json(stage);
    stages[stage.name]["share"] = report.share(stage);
  }
  nlohmann::json json{{"checkpoint", session.checkpoint->name()},
                      {"dtype", name_of(session.options.dtype)},
                      {"quantization", name_of(session.options.quantization)},
                      {"attention", name_of(session.options.attention)},
                      {"device", to_string(session.options.device)},
                      {"threads", session.options.threads},
                      {"height", params.height},
                      {"width", params.width},
                      {"steps", params.num_inference_steps},
                      {"images", rows_of(params, options).size() * params.num_images_per_prompt},
                      {"adapters", params.adapters.size()},
                      {"max_sequence_length", params.max_sequence_length},
                      {"runs", options.runs},
                      {"warmup", options.warmup},
                      {"load_seconds", report.load_seconds},
                      {"stages", stages},
                      {"image", to_json(report.image)},
                      {"weight_bytes", report.weight_bytes},
                      {"peak_memory_bytes", report.peak_bytes}};
  if (report.launching) json["launching_a_step"] = to_json(*report.launching);
  return json;
}

std::string line_of(const Measurement& m, const std::string& share) {
  return fmt::format("{:<16} {:>5} {:>11.4f} {:>11.4f} {:>11.4f} {:>7}\n", m.name, m.calls,
                     m.median, m.min, m.max, share);
}

std::string report_text(const BenchReport& report, const Session& session,
                        const ImageParams& params, const BenchOptions& options) {
  std::string text = fmt::format(
      "{}: {} on {}, {}, {}x{}, {}, {}, {} after {} warm-up\n"
      "{:<16} {:>5} {:>11} {:>11} {:>11} {:>7}\n",
      one_line(session.checkpoint->name()),
      precision_text(name_of(session.options.dtype), name_of(session.options.quantization),
                     name_of(session.options.attention)),
      to_string(session.options.device), counted(session.options.threads, "thread"), params.width,
      params.height, counted(params.num_inference_steps, "step"),
      counted(params.max_sequence_length, "text token"), counted(options.runs, "run"),
      options.warmup, "seconds", "calls", "median", "min", "max", "share");
  for (const Measurement& stage : report.stages) {
    text += line_of(stage, fmt::format("{:.1f} %", 100 * report.share(stage)));
  }
  if (report.launching) text += line_of(*report.launching, "");
  Measurement image = report.image;
  const size_t images = rows_of(params, options).size() * params.num_images_per_prompt;
  if (images > 1) image.name = fmt::format("{} whole images", images);
  text += line_of(image, "");
  text += fmt::format("load {:.2f} s, weights {}, peak memory {}\n", report.load_seconds,
                      format_bytes(report.weight_bytes), format_bytes(report.peak_bytes));
  return text;
}

void check_runs(const BenchOptions& options) {
  if (options.runs < 1 || options.runs > kMaxRuns) {
    throw UsageError(fmt::format("--runs {}: must be 1 to {}", options.runs, kMaxRuns));
  }
  if (options.warmup < 0 || options.warmup > kMaxRuns) {
    throw UsageError(fmt::format("--warmup {}: must be 0 to {}", options.warmup, kMaxRuns));
  }
}

void run_bench(const BenchOptions& given) {
  BenchOptions options = given;
  check_runs(options);
  if (!given.image.empty()) options.request.image = read_image(given.image);
  Session session = open_session(options.compute);
  if (options.json) check_json_name("SOURCE", session.checkpoint->name());
  const FluxConfig& config = session.checkpoint->config();
  ImageParams params;
  as_usage([&] { params = validate(options.request, config, limits_for(config)); });
  const BenchReport report = measure_all(session, params, options);
  if (options.json) {
    print_json(report_json(report, session, params, options));
  } else {
    print_out(report_text(report, session, params, options));
  }
}

}  // namespace

void add_bench(CLI::App& app, Action& run) {
  auto options = std::make_shared<BenchOptions>();
  options->request.prompt = "a red circle above a blue square";
  options->request.seed = 1;
  CLI::App* command = app.add_subcommand("bench", "times the stages and whole images");
  add_compute_options(*command, options->compute);
  command->add_option("--prompt", options->request.prompt, "what to generate")
      ->default_str(*options->request.prompt);
  Request& request = options->request;
  add_integer_option(*command, field_of(&Request::height), request.height);
  add_integer_option(*command, field_of(&Request::width), request.width);
  add_integer_option(*command, field_of(&Request::num_inference_steps),
                     request.num_inference_steps);
  add_integer_option(*command, field_of(&Request::max_sequence_length),
                     request.max_sequence_length);
  add_integer_option(*command, field_of(&Request::num_images_per_prompt),
                     request.num_images_per_prompt)
      ->description("images that are generated at once; whole image then means all [default: 1]");
  add_adapter_option(*command, request, "whole images, not for the stages");
  command->add_flag("--each-its-own", options->each_its_own,
                    "one image for each --lora, with that adapter alone, all at once");
  command
      ->add_option("--image", options->image,
                   "start whole images from this picture, and time vae_encoder [default: none]")
      ->type_name("FILE");
  command->add_option("--runs", options->runs, "timed runs")
      ->transform(whole_number())
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--warmup", options->warmup, "runs before them")
      ->transform(whole_number())
      ->type_name("N")
      ->capture_default_str();
  command->add_flag("--json", options->json, "print one JSON object, times in seconds");
  group_compute_options(*command);
  group_options(*command, kOutputGroup, {"--json"});
  add_examples(*command, {"bench FLUX.1-dev --height 512 --width 512 --steps 4 --runs 3",
                          "bench models --dtype bf16 --json"});
  command->callback([options, &run] { run = [options] { run_bench(*options); }; });
}

}  // namespace flux::cli

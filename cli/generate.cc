#include <fmt/format.h>

#include <limits>

#include "cli/common.h"
#include "cli/help.h"
#include "cli/output_files.h"
#include "cli/progress.h"
#include "cli/request_options.h"
#include "flux/flux.h"

/// Beside the command line's own headers it takes flux/flux.h alone: the library is enough.
namespace flux::cli {
namespace {

namespace fs = std::filesystem;

struct GenerateOptions {
  ComputeOptions compute;
  RequestOptions request;
  std::string output = "out.png";
  std::string latents;
  std::string save_latents;
  std::string preview;
  bool json = false;
};

/// Seconds of the parts that the library does not tell.
struct Timing {
  double load = 0;
  double write = 0;
};

/// One request a prompt, without gaps; row r is generated from seeds seed + r * images and up.
std::vector<Request> make_rows(const RequestOptions& options, const Model& model) {
  std::vector<Request> rows;
  as_usage([&] {
    std::optional<int64_t> seed = options.shared.seed;
    int64_t images = 0;
    for (Request& request : make_requests(options)) {
      request.seed = seed;
      rows.push_back(model.resolve(request));
      seed = rows.front().seed;
      const int64_t first = images;
      images += *rows.back().num_images_per_prompt;
      // A request is checked by itself; seeds go on from one to the next only here.
      if (*seed > std::numeric_limits<int64_t>::max() - (images - 1)) {
        throw UsageError(fmt::format("seed is {}: too large for {} images, which count up from it",
                                     *seed, images));
      }
      rows.back().seed = *seed + first;
    }
  });
  return rows;
}

/// FILE.png for one image, FILE_0.png, FILE_1.png, ... for more, of any format. Checks what can be
/// known before generation begins.
std::vector<fs::path> output_files(const std::string& output, size_t images, bool quality) {
  const fs::path file = output;
  check_output_files({{"--output", file}});
  check_image_name({"--output", file});
  const bool device = is_device(file);
  if (quality && format_of_file(file).value_or(ImageFormat::kPng) == ImageFormat::kPng) {
    report(LogLevel::kWarning,
           fmt::format("--quality has no effect: {} is PNG, which loses nothing", output));
  }
  if (device && images > 1) {
    throw UsageError(fmt::format("--output {}: takes one image, {} are asked for", output, images));
  }
  if (images == 1) return {file};
  std::vector<fs::path> files;
  for (size_t i = 0; i < images; ++i) {
    fs::path numbered = file;
    numbered.replace_filename(
        fmt::format("{}_{}{}", file.stem().string(), i, file.extension().string()));
    files.push_back(numbered);
  }
  return files;
}

/// Of all that the call writes; `files` are the images.
void check_outputs(const GenerateOptions& options, const std::vector<fs::path>& files) {
  std::vector<OutputFile> outputs;
  for (const fs::path& file : files) outputs.push_back({"--output", file});
  if (!options.save_latents.empty()) {
    outputs.push_back({"--save-latents", options.save_latents});
    check_safetensors_name(outputs.back());
  }
  if (!options.preview.empty()) {
    outputs.push_back({"--preview", options.preview});
    check_image_name(outputs.back());
  }
  check_output_files(outputs);
}

nlohmann::json report_json(const std::vector<fs::path>& files, const Result& result,
                           const Model& model, const Timing& timing) {
  auto images = nlohmann::json::array();
  auto seeds = nlohmann::json::array();
  auto names = nlohmann::json::array();
  for (size_t i = 0; i < files.size(); ++i) {
    const Image& image = result.images[i];
    names.push_back(files[i].string());
    images.push_back({{"file", files[i].string()},
                      {"prompt", *image.request.prompt},
                      {"row", image.row},
                      {"truncated", !image.truncated_by.empty()}});
    if (!image.truncated_by.empty()) images.back()["truncated_by"] = image.truncated_by;
    if (!image.request.seed) continue;  // no seed had a part in it
    seeds.push_back(*image.request.seed);
    images.back()["seed"] = *image.request.seed;
  }
  const Request& request = result.images.front().request;
  const double total = timing.load + result.encode_seconds + result.denoise_seconds +
                       result.decode_seconds + timing.write;
  nlohmann::json report{{"files", names},
                        {"seeds", seeds},
                        {"images", images},
                        {"height", result.images.front().height},
                        {"width", result.images.front().width},
                        {"steps", *request.num_inference_steps},
                        {"guidance", *request.guidance_scale},
                        {"dtype", model.dtype()},
                        {"quantization", model.quantization()},
                        {"attention", model.attention()},
                        {"device", model.device()},
                        {"threads", model.threads()},
                        {"lora_unused", result.lora_unused},
                        {"seconds",
                         {{"load", timing.load},
                          {"encode", result.encode_seconds},
                          {"denoise", result.denoise_seconds},
                          {"decode", result.decode_seconds},
                          {"write", timing.write},
                          {"total", total}}},
                        {"peak_memory_bytes", peak_memory_bytes()}};
  if (request.strength) report["strength"] = *request.strength;
  return report;
}

std::string report_text(const std::vector<fs::path>& files, const Result& result,
                        const Model& model, const Timing& timing) {
  std::string text;
  for (size_t i = 0; i < files.size(); ++i) {
    const Image& image = result.images[i];
    const Request& request = image.request;
    const std::string start =
        request.seed ? fmt::format("seed {}", *request.seed) : "given latents";
    text += fmt::format("prompt: {}\nfile: {}  {}, {}x{}, {}\n", one_line(*request.prompt),
                        one_line(files[i].string()), start, image.width, image.height,
                        counted(*request.num_inference_steps, "step"));
  }
  text += fmt::format(
      "device: {}, {}\n"
      "seconds: load {:.2f}, encode {:.2f}, denoise {:.2f}, decode {:.2f}, write {:.2f}\n"
      "peak memory: {}\n",
      model.device(), precision_text(model.dtype(), model.quantization(), model.attention()),
      timing.load, result.encode_seconds, result.denoise_seconds, result.decode_seconds,
      timing.write, format_bytes(peak_memory_bytes()));
  return text;
}

/// Loads the model and generates; writes each image when it is decoded.
Result generate_images(Model& model, const std::vector<Request>& rows,
                       const std::vector<Latents>& latents, const std::vector<fs::path>& files,
                       const std::string& preview_file, Timing& timing) {
  Progress progress(Progress::Mode::kAutomatic);
  Observer observer;
  observer.on_phase = [&](std::string_view phase) { progress.phase(std::string(phase)); };
  observer.on_step = [&](int done, int total) { progress.step(done, total); };
  observer.cancelled = interrupted;
  if (!preview_file.empty()) {
    observer.preview_every = 1;
    observer.on_preview = [&](const Preview& preview) {
      if (preview.image == 0) preview.write(preview_file);
    };
  }
  size_t written = 0;
  observer.on_image = [&](const Image& image) {
    timing.write += seconds_of([&] { image.write(files[written++]); });
  };
  timing.load = seconds_of([&] { model.load(observer); });
  Result result = model.generate(rows, observer, latents);
  result.decode_seconds -= timing.write;
  stop_if_interrupted();
  return result;
}

/// One line for each prompt that an encoder cut.
void warn_of_cuts(const Result& result) {
  for (size_t i = 0; i < result.images.size(); ++i) {
    const Image& image = result.images[i];
    const bool known = i > 0 && result.images[i - 1].row == image.row;
    if (image.truncated_by.empty() || known) continue;
    report(LogLevel::kWarning,
           fmt::format("prompt {}, or its negative prompt, is longer than {} takes and was cut{}",
                       image.row, image.truncated_by,
                       image.truncated_by == "clip" ? ": T5 has all of it" : ""));
  }
}

void save_latents(const std::string& file, const Result& result) {
  std::vector<Latents> all;
  for (const Image& image : result.images) all.push_back(image.latents);
  Latents::write(file, all);
}

void run_generate(GenerateOptions& options) {
  as_usage([&] { check_options(options.compute.model); });
  if (options.json) check_json_name("--output", options.output);
  Model model = Model::open(options.compute.source, options.compute.model);
  read_images(options.request);
  const std::vector<Request> rows = make_rows(options.request, model);
  model.open_adapters(rows.front());  // all rows have the same
  const auto images_per_row = static_cast<size_t>(*rows.front().num_images_per_prompt);
  const std::vector<fs::path> files = output_files(options.output, rows.size() * images_per_row,
                                                   options.request.shared.quality.has_value());
  check_outputs(options, files);
  std::vector<Latents> latents;
  if (!options.latents.empty()) latents = Latents::read(options.latents);

  Timing timing;
  const Result result = generate_images(model, rows, latents, files, options.preview, timing);
  warn_of_cuts(result);
  if (!options.save_latents.empty()) {
    timing.write += seconds_of([&] { save_latents(options.save_latents, result); });
  }
  if (options.json) {
    print_json(report_json(files, result, model, timing));
  } else {
    print_out(report_text(files, result, model, timing));
  }
}

}  // namespace

void add_generate(CLI::App& app, Action& run) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* command = app.add_subcommand("generate", "generates images from prompts");
  add_compute_options(*command, options->compute);
  add_request_options(*command, options->request);
  command
      ->add_option("--latents", options->latents,
                   "start from these packed latents [images, tokens, channels], in tensor "
                   "'latents', not from a seed's noise")
      ->type_name("FILE.safetensors")
      ->excludes("--seed");
  add_image_options(*command, options->request);
  command->get_option("--latents")->excludes("--image");
  add_adapter_option(*command, options->request.shared);
  command
      ->add_option("-o,--output", options->output,
                   "the file to write: PNG, JPEG or WebP by its ending (.png, .jpg, .jpeg, .webp); "
                   "more than one image: FILE_0.png, FILE_1.png, ...")
      ->type_name("FILE")
      ->capture_default_str();
  command
      ->add_option("--save-latents", options->save_latents,
                   "also write the packed latents at the end of the loop [default: no]")
      ->type_name("FILE.safetensors");
  command
      ->add_option("--preview", options->preview,
                   "show how the first image would look: a picture of half its size, written again "
                   "after each step but the last (PNG, JPEG or WebP, as --output) [default: no]")
      ->type_name("FILE");
  command->add_flag("--json", options->json, "print one JSON object");
  group_compute_options(*command);
  group_options(*command, kOutputGroup,
                {"--output", "--quality", "--save-latents", "--preview", "--json"});
  add_examples(
      *command,
      {"generate FLUX.1-dev --prompt \"a red fox\" --seed 7 -o fox.png",
       "generate models --prompt \"a red fox\" --image dog.jpg --strength 0.8 --images 4"});
  command->callback([options, &run] { run = [options] { run_generate(*options); }; });
}

}  // namespace flux::cli

#include <limits>

#include "cli/common.h"
#include "cli/progress.h"
#include "cli/request_options.h"
#include "pipeline/image_texts.h"
#include "pipeline/latents.h"
#include "pipeline/text_to_image.h"
#include "support/error.h"
#include "support/file.h"
#include "support/log.h"
#include "tensor/format.h"
#include "weights/safetensors.h"

namespace flux::cli {
namespace {

namespace fs = std::filesystem;

struct GenerateOptions {
  ComputeOptions compute;
  RequestOptions request;
  std::string output = "out.png";
  std::string latents;
  std::string save_latents;
  bool json = false;
};

/// Seconds of the whole command, in the order of its parts.
struct Timing {
  double load = 0;
  StageSeconds stages;
  double write = 0;
};

/// One validated request a prompt; row r is generated from seeds seed + r * images and up.
std::vector<ImageParams> make_rows(const RequestOptions& options, const FluxConfig& config) {
  const RequestLimits limits = limits_for(config);
  const int64_t seed = options.shared.seed.value_or(random_seed());
  std::vector<ImageParams> rows;
  as_usage([&] {
    for (ImageRequest& request : make_requests(options)) {
      request.seed = seed;
      const auto row = static_cast<int64_t>(rows.size());
      rows.push_back(validate(request, config, limits));
      const int64_t before = row * rows.back().num_images_per_prompt;
      const int64_t last = before + rows.back().num_images_per_prompt - 1;
      check(seed <= std::numeric_limits<int64_t>::max() - last, ErrorCode::kInvalidArgument,
            "seed {}: too large for {} images, which count up from it", seed, last + 1);
      rows.back().seed = seed + before;
    }
  });
  return rows;
}

/// Gives each row its part of the file's latents.
void read_latents(const std::string& file, const Session& session, std::vector<ImageParams>& rows) {
  const auto opened = SafetensorsFile::open(file);
  const ImageParams& first = rows.front();
  const LatentSize size = latent_size(session.checkpoint->config(), first.height, first.width);
  const int64_t images = first.num_images_per_prompt;
  const Shape expected = {static_cast<int64_t>(rows.size()) * images, size.tokens(),
                          4 * size.channels};
  const ConstTensor* found = opened->find("latents");
  check(found != nullptr, ErrorCode::kNotFound,
        "--latents {}: tensor 'latents' is missing; {} is expected", file, expected);
  const ConstTensor& stored = *found;
  check(is_floating_point(stored.dtype()) && stored.shape() == expected,
        ErrorCode::kInvalidArgument,
        "--latents {}: tensor 'latents' is {}; a floating point dtype and {} are expected, "
        "images x image tokens x channels",
        file, stored, expected);
  const Tensor all = to_dtype(stored, session.options.dtype);
  check(all_finite(all), ErrorCode::kInvalidArgument,
        "--latents {}: tensor 'latents' holds values that are not finite", file);
  for (size_t row = 0; row < rows.size(); ++row) {
    const auto begin = static_cast<int64_t>(row) * images;
    rows[row].latents = all.slice(0, begin, begin + images);
  }
}

/// FILE.png for one image, FILE_0.png, FILE_1.png, ... for more, of any format. Checks what can be
/// known before generation begins.
std::vector<fs::path> output_files(const std::string& output, size_t images) {
  const fs::path file = output;
  std::error_code error;
  const fs::file_status status = fs::status(file, error);
  if (fs::is_directory(status)) {
    throw UsageError(fmt::format("--output {}: is a directory; name a file in it", output));
  }
  const bool special = fs::exists(status) && !fs::is_regular_file(status);
  if (!special && !format_of_file(file)) {
    throw UsageError(
        fmt::format("--output {}: the name must end in .png, .jpg, .jpeg or .webp", output));
  }
  if (special && images > 1) {
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

void check_directory_of(const char* option, const fs::path& file) {
  const fs::path directory = file.has_parent_path() ? file.parent_path() : fs::path(".");
  check(fs::is_directory(directory), ErrorCode::kNotFound,
        "{} {}: the directory {} does not exist; make it first", option, file.string(),
        directory.string());
}

void save_latents(const std::string& file, const std::vector<GeneratedImage>& images) {
  const ConstTensor& first = images.front().latents;
  const Tensor all = Tensor::allocate(
      {static_cast<int64_t>(images.size()), first.size(0), first.size(1)}, first.dtype());
  for (size_t i = 0; i < images.size(); ++i) {
    copy_convert(images[i].latents, all[static_cast<int64_t>(i)]);
  }
  write_safetensors(file, {{"latents", all}});
}

void write_images(const std::vector<fs::path>& files, const GenerateResult& result,
                  const std::vector<ImageParams>& rows, const Session& session) {
  const ImageOrigin origin{session.options.dtype, session.checkpoint->name(),
                           "flux-triton " FLUX_VERSION};
  for (size_t i = 0; i < files.size(); ++i) {
    const GeneratedImage& image = result.images[i];
    const ImageParams& row = rows[image.row];
    // A device such as /dev/stdout has no ending.
    const ImageFormat format = format_of_file(files[i]).value_or(ImageFormat::kPng);
    const std::string bytes =
        encode_image(format, image.pixels, row.quality, describe_image(row, image, origin));
    AtomicFile file(files[i]);
    file.write(bytes.data(), bytes.size());
    file.commit();
  }
}

nlohmann::json seconds_json(const Timing& timing) {
  const StageSeconds& stages = timing.stages;
  return {{"load", timing.load},
          {"encode", stages.encode},
          {"denoise", stages.denoise},
          {"decode", stages.decode},
          {"write", timing.write},
          {"total", timing.load + stages.encode + stages.denoise + stages.decode + timing.write}};
}

nlohmann::json report_json(const std::vector<fs::path>& files, const GenerateResult& result,
                           const std::vector<ImageParams>& rows, const Session& session,
                           const Timing& timing) {
  auto images = nlohmann::json::array();
  auto seeds = nlohmann::json::array();
  auto names = nlohmann::json::array();
  for (size_t i = 0; i < files.size(); ++i) {
    const GeneratedImage& image = result.images[i];
    names.push_back(files[i].string());
    images.push_back({{"file", files[i].string()},
                      {"prompt", rows[image.row].prompt},
                      {"row", image.row},
                      {"truncated", image.truncated}});
    if (rows[image.row].latents.defined()) continue;  // no seed had a part in it
    seeds.push_back(image.seed);
    images.back()["seed"] = image.seed;
  }
  const ImageParams& row = rows.front();
  return {{"files", names},
          {"seeds", seeds},
          {"images", images},
          {"height", row.height},
          {"width", row.width},
          {"steps", row.num_inference_steps},
          {"guidance", row.guidance_scale},
          {"dtype", name_of(session.options.dtype)},
          {"device", to_string(session.options.device)},
          {"threads", session.options.threads},
          {"seconds", seconds_json(timing)},
          {"peak_memory_bytes", peak_memory_bytes()}};
}

std::string report_text(const std::vector<fs::path>& files, const GenerateResult& result,
                        const std::vector<ImageParams>& rows, const Timing& timing) {
  std::string text;
  for (size_t i = 0; i < files.size(); ++i) {
    const GeneratedImage& image = result.images[i];
    const ImageParams& row = rows[image.row];
    const std::string start =
        row.latents.defined() ? "given latents" : fmt::format("seed {}", image.seed);
    text += fmt::format("prompt: {}\nfile: {}  {}, {}x{}, {} steps\n", one_line(row.prompt),
                        files[i].string(), start, row.width, row.height, row.num_inference_steps);
  }
  text += fmt::format(
      "seconds: load {:.2f}, encode {:.2f}, denoise {:.2f}, decode {:.2f}, write {:.2f}\n"
      "peak memory: {}\n",
      timing.load, timing.stages.encode, timing.stages.denoise, timing.stages.decode, timing.write,
      format_bytes(peak_memory_bytes()));
  return text;
}

GenerateResult generate_images(Session& session, const std::vector<ImageParams>& rows,
                               Timing& timing) {
  Progress progress(Progress::Mode::kAutomatic);
  timing.load = seconds_of([&] {
    for (const StageKind stage : session.checkpoint->family().stages) {
      progress.phase(fmt::format("loading {}", name_of(stage)));
      stop_if_interrupted();
      session.stages->load(stage);
    }
  });
  progress.phase("encoding the prompt");
  GenerateObserver observer;
  observer.on_step = [&](int done, int total) { progress.step(done, total); };
  observer.cancelled = interrupted;
  GenerateResult result = generate(*session.stages, session.checkpoint->config(),
                                   session.options.dtype, rows, observer);
  timing.stages = result.seconds;
  stop_if_interrupted();
  return result;
}

void run_generate(const GenerateOptions& options) {
  Session session = open_session(options.compute);
  std::vector<ImageParams> rows = make_rows(options.request, session.checkpoint->config());
  const auto images_per_row = static_cast<size_t>(rows.front().num_images_per_prompt);
  const std::vector<fs::path> files = output_files(options.output, rows.size() * images_per_row);
  check_directory_of("--output", files.front());
  if (!options.save_latents.empty()) check_directory_of("--save-latents", options.save_latents);
  if (!options.latents.empty()) read_latents(options.latents, session, rows);

  Timing timing;
  const GenerateResult result = generate_images(session, rows, timing);
  for (const GeneratedImage& image : result.images) {
    if (!image.truncated) continue;
    log_warning("prompt {}, or its negative prompt, is longer than an encoder takes and was cut",
                image.row);
  }
  timing.write = seconds_of([&] {
    if (!options.save_latents.empty()) save_latents(options.save_latents, result.images);
    write_images(files, result, rows, session);
  });
  if (options.json) {
    print_json(report_json(files, result, rows, session, timing));
  } else {
    print_out(report_text(files, result, rows, timing));
  }
}

}  // namespace

void add_generate(CLI::App& app, Action& run) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* command = app.add_subcommand("generate", "generates images from prompts");
  add_compute_options(*command, options->compute);
  add_request_options(*command, options->request);
  command
      ->add_option("-o,--output", options->output,
                   "the file to write: PNG, JPEG or WebP by its ending (.png, .jpg, .jpeg, .webp); "
                   "more than one image: FILE_0.png, FILE_1.png, ...")
      ->type_name("FILE")
      ->capture_default_str();
  command
      ->add_option("--latents", options->latents,
                   "start from these packed latents [images, tokens, channels], in tensor "
                   "'latents', not from a seed's noise")
      ->type_name("FILE.safetensors")
      ->excludes("--seed");
  command
      ->add_option("--save-latents", options->save_latents,
                   "also write the packed latents at the end of the loop [default: no]")
      ->type_name("FILE.safetensors");
  command->add_flag("--json", options->json, "print one JSON object");
  command->callback([options, &run] { run = [options] { run_generate(*options); }; });
}

}  // namespace flux::cli

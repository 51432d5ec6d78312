#include "golden.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <map>

#include "ops/cuda_library.h"
#include "pipeline/part_search.h"
#include "support/error.h"
#include "support/json_file.h"
#include "tensor/format.h"

namespace flux::testing {
namespace {

std::filesystem::path golden_directory() { return FLUX_TEST_DATA; }

std::filesystem::path single_files() { return golden_directory() / "single_files"; }

/// The parts of the checkpoint around a transformer in a single file; null for other checkpoints.
nlohmann::json parts_of(const std::string& checkpoint) {
  const nlohmann::json index = read_json_file(single_files() / "index.json");
  for (const auto& entry : index["cases"]) {
    if (entry["name"] == "image_" + checkpoint) return entry["parts"];
  }
  return nullptr;
}

/// Whether a case is of files that are among the parts.
bool is_of(const nlohmann::json& entry, const nlohmann::json& parts) {
  if (parts.is_null()) return true;
  const auto& own = entry["parts"].items();
  return std::all_of(own.begin(), own.end(),
                     [&](const auto& part) { return parts[part.key()] == part.value(); });
}

/// The cases in the index.json of a directory, of `checkpoint` and its parts.
std::vector<GoldenCase> cases_in(const std::filesystem::path& directory,
                                 const std::string& checkpoint, const nlohmann::json& parts) {
  std::vector<GoldenCase> cases;
  const nlohmann::json index = read_json_file(directory / "index.json");
  for (const auto& entry : index["cases"]) {
    if (!is_of(entry, parts)) continue;
    GoldenCase golden;
    golden.checkpoint = checkpoint;
    golden.name = entry["name"];
    golden.stage = entry["stage"];
    golden.dtype = parse_compute_dtype(entry["dtype"].get<std::string>());
    golden.trace = entry.contains("trace");
    golden.recipe = entry;
    golden.file = SafetensorsFile::open(directory / entry["file"].get<std::string>());
    cases.push_back(std::move(golden));
  }
  return cases;
}

std::vector<GoldenCase> read_cases(const std::string& checkpoint) {
  const nlohmann::json parts = parts_of(checkpoint);
  if (!parts.is_null()) return cases_in(single_files(), checkpoint, parts);
  std::vector<GoldenCase> cases;
  for (const auto& folder : {golden_directory(), golden_directory() / "image_to_image"}) {
    if (!std::filesystem::exists(folder / checkpoint)) continue;
    std::vector<GoldenCase> more = cases_in(folder / checkpoint, checkpoint, parts);
    std::move(more.begin(), more.end(), std::back_inserter(cases));
  }
  return cases;
}

/// Whether it is a checkpoint of another pipeline, which has only what tiny-dev has not.
bool is_kind(const std::string& checkpoint) {
  const auto settings = kind_settings();
  return std::any_of(settings.begin(), settings.end(),
                     [&](const GoldenSetting& kind) { return kind.checkpoint == checkpoint; });
}

std::shared_ptr<const Checkpoint> open_kind(const std::string& checkpoint) {
  const auto own = golden_directory() / "checkpoints" / checkpoint;
  const auto dev = golden_directory() / "checkpoints" / "tiny-dev";
  PartOptions options;
  if (!std::filesystem::exists(own / "transformer")) options.transformer = dev / "transformer";
  options.vae = dev / "vae";
  options.clip = dev / "text_encoder";
  options.t5 = dev / "text_encoder_2";
  options.tokenizers = dev;
  return Checkpoint::open(own, with_parts(std::make_unique<DiffusersLayout>(own), options));
}

InputImage input_image(const ConstTensor& pixels) {
  const auto* values = pixels.data<uint8_t>();
  return {.height = pixels.size(0),
          .width = pixels.size(1),
          .channels = pixels.rank() == 3 ? pixels.size(2) : 1,
          .pixels = std::make_shared<const std::vector<uint8_t>>(values, values + pixels.numel())};
}

}  // namespace

ConstTensor GoldenCase::tensor(const std::string& key) const {
  const auto found = file->tensors().find(key);
  check(found != file->tensors().end(), ErrorCode::kNotFound, "{}: no tensor '{}'",
        file->path().string(), key);
  return in_memory(found->second).data;
}

bool GoldenCase::has(const std::string& key) const { return file->tensors().contains(key); }

std::vector<GoldenSetting> golden_settings() {
  std::vector<GoldenSetting> settings;
  for (const Device& device : {Device{}, Device{Device::Kind::kCuda, 0}}) {
    for (const char* checkpoint : {"tiny-dev", "tiny-schnell", "tiny-f16"}) {
      settings.push_back({checkpoint, device});
    }
  }
  return settings;
}

std::vector<GoldenSetting> single_file_settings() {
  std::vector<GoldenSetting> settings;
  for (const Device& device : {Device{}, Device{Device::Kind::kCuda, 0}}) {
    for (const char* name :
         {"flux1-dev-fp8", "flux1-dev-Q2_K", "flux1-dev-fp8-scaled", "flux1-schnell-fp8-scaled"}) {
      settings.push_back({name, device});
    }
  }
  return settings;
}

std::vector<GoldenSetting> kind_settings() {
  std::vector<GoldenSetting> settings;
  for (const Device& device : {Device{}, Device{Device::Kind::kCuda, 0}}) {
    for (const char* checkpoint : {"tiny-kontext", "tiny-fill", "tiny-control"}) {
      settings.push_back({checkpoint, device});
    }
  }
  return settings;
}

std::string name_of(const GoldenSetting& setting) {
  std::string name = setting.checkpoint + (setting.device.is_cpu() ? "_cpu" : "_cuda");
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

void GoldenTest::SetUp() {
  if (!device().is_cpu() && !has_cuda()) GTEST_SKIP() << "there is no GPU";
}

std::vector<GoldenCase> golden_cases(const std::string& checkpoint, const std::string& stage) {
  std::vector<GoldenCase> cases = read_cases(checkpoint);
  std::erase_if(cases, [&](const GoldenCase& c) { return c.stage != stage || c.trace; });
  return cases;
}

GoldenCase golden_trace(const std::string& checkpoint, const std::string& stage) {
  for (GoldenCase& golden : read_cases(checkpoint)) {
    if (golden.stage == stage && golden.trace) return golden;
  }
  fail(ErrorCode::kNotFound, "{}: no trace of {}", checkpoint, stage);
}

std::shared_ptr<const Checkpoint> open_golden(const std::string& checkpoint) {
  static std::map<std::string, std::shared_ptr<const Checkpoint>> opened;
  auto& slot = opened[checkpoint];
  if (slot) return slot;
  const nlohmann::json parts = parts_of(checkpoint);
  if (is_kind(checkpoint)) {
    slot = open_kind(checkpoint);
  } else if (parts.is_null()) {
    slot = Checkpoint::open(golden_directory() / "checkpoints" / checkpoint);
  } else {
    const auto file = [&](const char* part) {
      return single_files() / parts[part].get<std::string>();
    };
    PartOptions options;
    options.vae = file("vae");
    options.clip = file("clip");
    options.t5 = file("t5");
    options.tokenizers = golden_directory() / "checkpoints" / "tiny-dev";
    slot = Checkpoint::open(file("transformer"), find_parts(file("transformer"), options));
  }
  return slot;
}

double relative_error(const ConstTensor& found, const ConstTensor& expected) {
  const Tensor a = to_dtype(found, DType::kF32);
  const Tensor b = to_dtype(expected, DType::kF32);
  check(a.numel() == b.numel(), ErrorCode::kInternal, "comparing {} with {}", found, expected);
  double largest = 0;
  double difference = 0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    const double x = a.data<float>()[i];
    const double y = b.data<float>()[i];
    if (!std::isfinite(x)) return std::numeric_limits<double>::infinity();
    largest = std::max(largest, std::abs(y));
    difference = std::max(difference, std::abs(x - y));
  }
  return difference / largest;
}

double psnr(const ConstTensor& a, const ConstTensor& b) {
  check(a.numel() == b.numel(), ErrorCode::kInternal, "comparing {} with {}", a, b);
  double sum = 0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    const double d = static_cast<double>(a.data<uint8_t>()[i]) - b.data<uint8_t>()[i];
    sum += d * d;
  }
  if (sum == 0) return std::numeric_limits<double>::infinity();
  return 10 * std::log10(255.0 * 255.0 * static_cast<double>(a.numel()) / sum);
}

std::vector<ImageParams> golden_rows(const GoldenCase& golden) {
  const nlohmann::json& recipe = golden.recipe["request"];
  const FluxConfig& config = open_golden(golden.checkpoint)->config();
  std::vector<ImageParams> rows;
  for (size_t i = 0; i < recipe["prompt"].size(); ++i) {
    Request request;
    request.prompt = recipe["prompt"][i];
    if (recipe.contains("prompt_2")) request.prompt_2 = recipe["prompt_2"][i];
    if (recipe.contains("negative_prompt")) request.negative_prompt = recipe["negative_prompt"][i];
    request.true_cfg_scale = recipe.value("true_cfg_scale", 1.0);
    request.num_inference_steps = recipe["num_inference_steps"];
    request.guidance_scale = recipe.value("guidance_scale", 3.5);
    request.height = recipe["height"];
    request.width = recipe["width"];
    request.num_images_per_prompt = recipe.value("num_images_per_prompt", 1);
    request.max_sequence_length = recipe["max_sequence_length"];
    request.seed =
        recipe["seed"].get<int64_t>() + static_cast<int64_t>(i) * *request.num_images_per_prompt;
    if (golden.has("image")) request.image = input_image(golden.tensor("image"));
    if (golden.has("mask")) request.mask = input_image(golden.tensor("mask"));
    if (recipe.contains("strength")) request.strength = recipe["strength"];
    rows.push_back(validate(request, config, limits_for(config)));
  }
  return rows;
}

bool same_bytes(const ConstTensor& a, const ConstTensor& b) {
  return a.bytes() == b.bytes() &&
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0;
}

double share_within_one(const ConstTensor& found, const ConstTensor& expected) {
  int64_t within = 0;
  for (int64_t i = 0; i < found.numel(); ++i) {
    within += std::abs(found.data<uint8_t>()[i] - expected.data<uint8_t>()[i]) <= 1;
  }
  return static_cast<double>(within) / static_cast<double>(found.numel());
}

}  // namespace flux::testing

#include "triton/bls_request.h"

#include <charconv>
#include <cmath>
#include <cstring>

#include "pipeline/png.h"
#include "support/base64.h"
#include "support/error.h"

namespace flux::triton {
namespace {

using Json = nlohmann::json;

/// Optional inputs with one value a row: from the tensor of that name, else from the parameter.
class RowValues {
 public:
  explicit RowValues(const Request& request) : request_(request) {}

  std::vector<std::optional<std::string>> texts(const char* name) const {
    if (request_.has_input(name)) return optional(request_.strings(name));
    return from_parameter<std::string>(name, [&](const Json& value) {
      check(value.is_string(), ErrorCode::kInvalidArgument, "parameter {} is {}: must be a string",
            name, value.dump());
      return value.get<std::string>();
    });
  }

  std::vector<std::optional<int64_t>> integers(const char* name) const {
    if (request_.has_input(name)) return optional(request_.integers(name));
    return from_parameter<int64_t>(name, [&](const Json& value) {
      const double number = as_number(name, value);
      constexpr double kLargest = 9007199254740992.0;  // beyond, doubles are no exact integers
      if (value.is_number_integer()) return value.get<int64_t>();
      if (value.is_string()) return parse_integer(name, value.get<std::string>());
      check(std::floor(number) == number && std::abs(number) <= kLargest,
            ErrorCode::kInvalidArgument, "parameter {} is {}: must be an integer", name,
            value.dump());
      return static_cast<int64_t>(number);
    });
  }

  std::vector<std::optional<double>> numbers(const char* name) const {
    if (request_.has_input(name)) return optional(request_.numbers(name));
    return from_parameter<double>(name, [&](const Json& value) { return as_number(name, value); });
  }

 private:
  template <typename Value>
  static std::vector<std::optional<Value>> optional(const std::vector<Value>& values) {
    return {values.begin(), values.end()};
  }

  template <typename Value, typename Convert>
  std::vector<std::optional<Value>> from_parameter(const char* name, Convert&& convert) const {
    std::optional<Value> value;
    if (const std::optional<Json> found = request_.parameter(name)) value = convert(*found);
    return std::vector<std::optional<Value>>(static_cast<size_t>(request_.rows()), value);
  }

  static int64_t parse_integer(const char* name, const std::string& text) {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    check(error == std::errc() && end == text.data() + text.size(), ErrorCode::kInvalidArgument,
          "parameter {} is '{}': must be an integer", name, text);
    return value;
  }

  static double as_number(const char* name, const Json& value) {
    if (value.is_number()) return value.get<double>();
    double number = 0;
    const std::string text = value.is_string() ? value.get<std::string>() : "";
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    check(!text.empty() && error == std::errc() && end == text.data() + text.size(),
          ErrorCode::kInvalidArgument, "parameter {} is {}: must be a number", name, value.dump());
    return number;
  }

  const Request& request_;
};

OutputFormat read_format(const RowValues& values) {
  const auto formats = values.texts("output_format");
  for (const auto& format : formats) {
    check(format == formats[0], ErrorCode::kInvalidArgument,
          "output_format differs between rows: send them as two requests");
  }
  const std::string name = formats[0].value_or("raw");
  if (name == "raw") return OutputFormat::kRaw;
  if (name == "png") return OutputFormat::kPng;
  if (name == "png_base64") return OutputFormat::kPngBase64;
  fail(ErrorCode::kInvalidArgument, "output_format is '{}': must be raw, png or png_base64", name);
}

void check_rows_agree(const BlsRequest& asked) {
  const ImageParams& first = asked.rows[0];
  for (const ImageParams& row : asked.rows) {
    const bool same_count = row.num_images_per_prompt == first.num_images_per_prompt;
    const bool same_size = row.height == first.height && row.width == first.width;
    check(same_count && (same_size || asked.format != OutputFormat::kRaw),
          ErrorCode::kInvalidArgument,
          "rows disagree: {} x {} with {} images and {} x {} with {}: {}", first.height,
          first.width, first.num_images_per_prompt, row.height, row.width,
          row.num_images_per_prompt,
          same_count ? "raw images of one request need one size; use output_format png"
                     : "rows of one request need one num_images_per_prompt");
  }
}

}  // namespace

BlsRequest read_bls_request(const Request& request, const FluxConfig& config,
                            const RequestLimits& limits) {
  const RowValues values(request);
  const auto prompts = values.texts("prompt");
  const auto prompts_2 = values.texts("prompt_2");
  const auto negatives = values.texts("negative_prompt");
  const auto cfg_scales = values.numbers("true_cfg_scale");
  const auto guidance = values.numbers("guidance_scale");
  const auto steps = values.integers("num_inference_steps");
  const auto heights = values.integers("height");
  const auto widths = values.integers("width");
  const auto seeds = values.integers("seed");
  const auto counts = values.integers("num_images_per_prompt");
  const auto lengths = values.integers("max_sequence_length");
  BlsRequest asked;
  asked.format = read_format(values);
  for (size_t row = 0; row < static_cast<size_t>(request.rows()); ++row) {
    check(prompts[row].has_value(), ErrorCode::kInvalidArgument,
          "prompt is missing: say what to "
          "draw");
    ImageRequest image;
    image.prompt = *prompts[row];
    image.prompt_2 = prompts_2[row];
    image.negative_prompt = negatives[row];
    image.true_cfg_scale = cfg_scales[row].value_or(image.true_cfg_scale);
    image.guidance_scale = guidance[row].value_or(image.guidance_scale);
    image.num_inference_steps = steps[row];
    image.height = heights[row];
    image.width = widths[row];
    image.seed = seeds[row];
    image.num_images_per_prompt = counts[row].value_or(image.num_images_per_prompt);
    image.max_sequence_length = lengths[row];
    asked.rows.push_back(validate(image, config, limits));
  }
  check_rows_agree(asked);
  return asked;
}

void write_bls_outputs(Request& request, const BlsRequest& asked, const GenerateResult& result) {
  const auto rows = static_cast<int64_t>(asked.rows.size());
  const ImageParams& first = asked.rows[0];
  if (asked.format == OutputFormat::kRaw && request.wants_output("images")) {
    const Tensor images = request.host_output(
        "images", DType::kU8, {rows, first.num_images_per_prompt, first.height, first.width, 3});
    auto* target = images.data<uint8_t>();
    for (const GeneratedImage& image : result.images) {
      std::memcpy(target, image.pixels.raw(), static_cast<size_t>(image.pixels.bytes()));
      target += image.pixels.bytes();
    }
  }
  if (asked.format != OutputFormat::kRaw && request.wants_output("encoded_images")) {
    std::vector<std::string> files;
    for (const GeneratedImage& image : result.images) {
      const std::string png = encode_png(image.pixels, {});
      files.push_back(asked.format == OutputFormat::kPng ? png : encode_base64(png));
    }
    request.output_strings("encoded_images", files, rows);
  }
  if (request.wants_output("seed")) {
    const Tensor seeds = request.host_output("seed", DType::kI64, {rows, 1});
    for (size_t row = 0; row < asked.rows.size(); ++row) {
      seeds.data<int64_t>()[row] = asked.rows[row].seed;
    }
  }
}

}  // namespace flux::triton

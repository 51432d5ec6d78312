#include "triton/bls_request.h"

#include <fmt/ranges.h>

#include <cstring>

#include "pipeline/request_fields.h"
#include "support/base64.h"
#include "support/error.h"
#include "support/json_file.h"
#include "support/log.h"
#include "support/utf8.h"
#include "triton/image_inputs.h"
#include "triton/known_parameters.h"
#include "triton/row_values.h"

namespace flux::triton {
namespace {

/// Reads one field of all rows.
template <typename Value>
void read_field(const RowValues& values, const RequestField& field,
                std::optional<Value> flux::Request::*given, std::vector<flux::Request>& rows) {
  const auto column = values.column<Value>(std::string(field.name), alias_of(field));
  for (size_t row = 0; row < rows.size(); ++row) rows[row].*given = column[row];
}

OutputFormat read_format(const RowValues& values) {
  const auto formats = values.column<std::string>("output_format");
  for (const auto& format : formats) {
    check(format == formats[0], ErrorCode::kInvalidArgument,
          "output_format differs between rows: send them as two requests");
  }
  OutputFormat format{formats[0].value_or("raw"), {}, false};
  if (format.name == "raw") return format;
  constexpr std::string_view kBase64 = "_base64";
  std::string_view kind = format.name;
  format.base64 = kind.ends_with(kBase64);
  if (format.base64) kind.remove_suffix(kBase64.size());
  format.file = parse_image_format(kind);
  check(format.file.has_value(), ErrorCode::kInvalidArgument,
        "output_format is '{}': must be raw, png, jpeg, webp, png_base64, jpeg_base64 or "
        "webp_base64",
        excerpt(format.name));
  return format;
}

/// A whole number that all rows must have in common.
int64_t read_shared(const RowValues& values, const char* name, int64_t fallback, int64_t low,
                    int64_t high) {
  const auto column = values.column<int64_t>(name);
  const int64_t value = column[0].value_or(fallback);
  for (const auto& other : column) {
    check(other == column[0], ErrorCode::kInvalidArgument,
          "{} differs between rows: send them as two requests", name);
  }
  check(value >= low && value <= high, ErrorCode::kInvalidArgument, "{} is {}: must be {} to {}",
        name, value, low, high);
  return value;
}

PreviewSettings read_previews(const RowValues& values) {
  constexpr int64_t kMostSteps = RequestLimits{}.max_steps;
  constexpr int64_t kSmallest = 16;
  constexpr int64_t kLargest = 1024;
  const PreviewSettings fallback;
  return {.every =
              static_cast<int>(read_shared(values, "preview_every", fallback.every, 0, kMostSteps)),
          .size = read_shared(values, "preview_size", fallback.size, kSmallest, kLargest)};
}

/// Refuses a parameter that is neither the request's nor the server's own.
void check_parameters(const Request& request, Answers answers) {
  std::vector<std::string_view> known;
  for (const RequestField& field : request_fields()) {
    known.push_back(field.name);
    if (alias_of(field) != field.name) known.push_back(alias_of(field));
  }
  known.insert(known.end(), {"output_format", "lora"});
  known.insert(known.end(), image_parameters().begin(), image_parameters().end());
  if (answers == Answers::kEveryStep) known.insert(known.end(), {"preview_every", "preview_size"});
  const auto unknown = unknown_parameter(request, known);
  if (!unknown) return;
  const auto near = near_name(*unknown);
  fail(ErrorCode::kInvalidArgument, "parameter {} is not known: {}", excerpt(*unknown),
       near ? fmt::format("the nearest that is known is {}", *near)
            : fmt::format("known are {}", fmt::join(known, ", ")));
}

/// An answer without the output that was asked for would look like success. The server asks for all
/// of them where a request names none.
void check_outputs(const Request& request, const OutputFormat& format) {
  const bool raw = !format.file.has_value();
  const char* made = raw ? "images" : "encoded_images";
  const char* other = raw ? "encoded_images" : "images";
  const bool all = request.wants_output(made) && request.wants_output("seed");
  check(all || !request.wants_output(other), ErrorCode::kInvalidArgument,
        "output {} is asked for, but output_format is {}: {}", other, format.name,
        raw ? "use png, jpeg or webp, or ask for images" : "use raw, or ask for encoded_images");
}

void check_rows_agree(const BlsRequest& asked) {
  const ImageParams& first = asked.rows[0];
  for (const ImageParams& row : asked.rows) {
    const bool same_count = row.num_images_per_prompt == first.num_images_per_prompt;
    const bool same_size = row.height == first.height && row.width == first.width;
    check(same_count && (same_size || asked.format.file), ErrorCode::kInvalidArgument,
          "rows disagree: {} x {} with {} images and {} x {} with {}: {}", first.height,
          first.width, first.num_images_per_prompt, row.height, row.width,
          row.num_images_per_prompt,
          same_count ? "raw images of one request need one size; use output_format png"
                     : "rows of one request need one num_images_per_prompt");
  }
}

}  // namespace

BlsRequest read_bls_request(const Request& request, const FluxConfig& config,
                            const RequestLimits& limits, const LoraDirectory& loras,
                            Answers answers) {
  refuse_pixel_parameters(request);
  check_parameters(request, answers);
  const RowValues values(request);
  std::vector<flux::Request> rows(static_cast<size_t>(request.rows()));
  for (const RequestField& field : request_fields()) {
    std::visit([&](const auto& kind) { read_field(values, field, kind.given, rows); }, field.kind);
  }
  const auto lora = values.column<std::string>("lora");
  for (size_t row = 0; row < rows.size(); ++row) {
    if (lora[row]) rows[row].adapters = loras.find(*lora[row]);
  }
  BlsRequest asked;
  asked.format = read_format(values);
  if (answers == Answers::kEveryStep) asked.previews = read_previews(values);
  check_outputs(request, asked.format);
  if (asked.format.file.value_or(ImageFormat::kPng) == ImageFormat::kPng && rows[0].quality) {
    log_warning("quality has no effect: output_format is {}", asked.format.name);
  }
  const ImageNames names = read_image_inputs(request, values, info_of(config.kind), rows);
  for (const flux::Request& row : rows) {
    asked.rows.push_back(validate(row, config, limits, names));
  }
  check_rows_agree(asked);
  return asked;
}

void write_bls_outputs(Request& request, const BlsRequest& asked, const GenerateResult& result,
                       const ImageOrigin& origin) {
  const auto rows = static_cast<int64_t>(asked.rows.size());
  const ImageParams& first = asked.rows[0];
  if (!asked.format.file && request.wants_output("images")) {
    const Tensor images = request.host_output(
        "images", DType::kU8, {rows, first.num_images_per_prompt, first.height, first.width, 3});
    auto* target = images.data<uint8_t>();
    for (const GeneratedImage& image : result.images) {
      std::memcpy(target, image.pixels.raw(), static_cast<size_t>(image.pixels.bytes()));
      target += image.pixels.bytes();
    }
  }
  if (asked.format.file && request.wants_output("encoded_images")) {
    std::vector<std::string> files;
    for (const GeneratedImage& image : result.images) {
      const ImageParams& row = asked.rows[image.row];
      const std::string file = encode_image(*asked.format.file, image.pixels, row.quality,
                                            describe_image(row, image, origin));
      files.push_back(asked.format.base64 ? encode_base64(file) : file);
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

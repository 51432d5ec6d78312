#include "triton/bls_request.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <set>
#include <type_traits>

#include "pipeline/request_fields.h"
#include "support/base64.h"
#include "support/error.h"
#include "support/json_file.h"

namespace flux::triton {
namespace {

using Json = nlohmann::json;

/// Optional inputs with one value a row: from the tensor of that name, else from the parameter.
class RowValues {
 public:
  explicit RowValues(const Request& request) : request_(request) {}

  /// Value: std::string, int64_t or double.
  template <typename Value>
  std::vector<std::optional<Value>> column(std::string name, std::string_view alias = {}) const {
    if (!alias.empty() && alias != name && request_.parameter(alias)) {
      check(!request_.has_input(name) && !request_.parameter(name), ErrorCode::kInvalidArgument,
            "{} and {} mean the same and are both given: give one", name, alias);
      name = alias;
    }
    if (request_.has_input(name)) {
      const std::vector<Value> values = input<Value>(name);
      return {values.begin(), values.end()};
    }
    std::optional<Value> value;
    if (const auto found = request_.parameter(name)) value = converted<Value>(name, *found);
    return std::vector<std::optional<Value>>(static_cast<size_t>(request_.rows()), value);
  }

 private:
  template <typename Value>
  std::vector<Value> input(const std::string& name) const {
    if constexpr (std::is_same_v<Value, std::string>) return request_.strings(name);
    if constexpr (std::is_same_v<Value, int64_t>) return request_.integers(name);
    if constexpr (std::is_same_v<Value, double>) return request_.numbers(name);
  }

  template <typename Value>
  static Value converted(const std::string& name, const Json& value) {
    if constexpr (std::is_same_v<Value, std::string>) return as_text(name, value);
    if constexpr (std::is_same_v<Value, int64_t>) return as_integer(name, value);
    if constexpr (std::is_same_v<Value, double>) return as_number(name, value);
  }

  static std::string as_text(const std::string& name, const Json& value) {
    check(value.is_string(), ErrorCode::kInvalidArgument, "parameter {} is {}: must be a string",
          name, quoted(value));
    return value.get<std::string>();
  }

  static int64_t as_integer(const std::string& name, const Json& value) {
    const double number = as_number(name, value);
    constexpr double kLargest = 9007199254740992.0;  // beyond, doubles are no exact integers
    if (value.is_number_integer()) return value.get<int64_t>();
    if (value.is_string()) return parse_integer(name, value.get<std::string>());
    check(std::floor(number) == number && std::abs(number) <= kLargest, ErrorCode::kInvalidArgument,
          "parameter {} is {}: must be an integer", name, quoted(value));
    return static_cast<int64_t>(number);
  }

  static int64_t parse_integer(const std::string& name, const std::string& text) {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    check(error == std::errc() && end == text.data() + text.size(), ErrorCode::kInvalidArgument,
          "parameter {} is '{}': must be an integer", name, text);
    return value;
  }

  static double as_number(const std::string& name, const Json& value) {
    if (value.is_number()) return value.get<double>();
    double number = 0;
    const std::string text = value.is_string() ? value.get<std::string>() : "";
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    check(!text.empty() && error == std::errc() && end == text.data() + text.size(),
          ErrorCode::kInvalidArgument, "parameter {} is {}: must be a number", name, quoted(value));
    return number;
  }

  const Request& request_;
};

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
        format.name);
  return format;
}

/// Refuses a parameter that is neither the request's nor the server's own.
void check_parameters(const Request& request) {
  static const std::set<std::string, std::less<>> kOthers = {
      "output_format", "timeout",     "priority",           "sequence_id", "sequence_start",
      "sequence_end",  "binary_data", "binary_data_output", "stream",      "id"};
  const auto fields = request_fields();
  for (const std::string& name : request.parameter_names()) {
    const bool known = kOthers.contains(name) || name.starts_with("triton_") ||
                       std::any_of(fields.begin(), fields.end(), [&](const RequestField& field) {
                         return name == field.name || name == alias_of(field);
                       });
    check(known, ErrorCode::kInvalidArgument,
          "parameter {} is not known: the nearest that is known is {}", name, nearest_name(name));
  }
}

/// An answer without the output that was asked for would look like success.
void check_outputs(const Request& request, const OutputFormat& format) {
  const bool raw = !format.file.has_value();
  const char* made = raw ? "images" : "encoded_images";
  const char* other = raw ? "encoded_images" : "images";
  check(request.wants_output(made) || !request.wants_output(other), ErrorCode::kInvalidArgument,
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
                            const RequestLimits& limits) {
  check_parameters(request);
  const RowValues values(request);
  std::vector<flux::Request> rows(static_cast<size_t>(request.rows()));
  for (const RequestField& field : request_fields()) {
    std::visit([&](const auto& kind) { read_field(values, field, kind.given, rows); }, field.kind);
  }
  BlsRequest asked;
  asked.format = read_format(values);
  check_outputs(request, asked.format);
  for (const flux::Request& row : rows) asked.rows.push_back(validate(row, config, limits));
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

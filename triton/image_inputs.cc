#include "triton/image_inputs.h"

#include <algorithm>
#include <charconv>
#include <string>

#include "image/decode.h"
#include "support/error.h"
#include "support/json_file.h"

namespace flux::triton {
namespace {

/// A picture of a request: its pixels or a file of them.
struct PictureInput {
  const char* pixels;
  const char* encoded;
  size_t rank;  // of the pixels: [height, width, 3] or [height, width]
  InputImage flux::Request::*given;

  std::span<const int64_t> dims() const {
    static constexpr int64_t kDims[] = {-1, -1, 3};
    return std::span(kDims).first(rank);
  }
  TensorSpec spec() const {
    return {pixels, DataType::kUint8, {dims().begin(), dims().end()}, true};
  }
};

constexpr PictureInput kImage{"image", "encoded_image", 3, &flux::Request::image};
constexpr PictureInput kMask{"mask_image", "encoded_mask", 2, &flux::Request::mask};

/// What an error calls a row's input.
std::string name_of_row(const char* input, size_t row, size_t rows) {
  return rows == 1 ? input : fmt::format("{} row {}", input, row);
}

bool is_given(const Request& request, const char* encoded) {
  return request.has_input(encoded) || request.parameter(encoded);
}

void read_pixels(const Request& request, const PictureInput& picture,
                 std::vector<flux::Request>& rows) {
  const ConstTensor pixels = request.host_bytes(picture.pixels, picture.dims());
  check_image_bounds(picture.pixels, {pixels.size(1), pixels.size(2)});
  for (size_t row = 0; row < rows.size(); ++row) {
    rows[row].*picture.given = to_input_image(pixels[static_cast<int64_t>(row)]);
  }
}

/// What a file is read as.
enum class Reading {
  kPixels,       // with their colours, masks too: they are resized before they are made grey
  kTransparent,  // what is transparent as a mask; nothing where all is opaque
  kAlphaMask,    // the latter, or where there is nothing the former
};

/// 255 where an image is transparent; nothing where it nowhere is by half.
InputImage transparent_part(const Tensor& rgba) {
  const Tensor mask = Tensor::allocate({rgba.size(0), rgba.size(1)}, DType::kU8);
  constexpr int kOpaque = 255;
  constexpr int kHalf = 128;
  bool any = false;
  for (int64_t i = 0; i < mask.numel(); ++i) {
    const int alpha = rgba.data<uint8_t>()[4 * i + 3];
    any |= kOpaque - alpha >= kHalf;
    mask.data<uint8_t>()[i] = static_cast<uint8_t>(kOpaque - alpha);
  }
  return any ? to_input_image(mask) : InputImage{};
}

InputImage read_file(const std::string& text, const std::string& name, Reading reading) {
  if (text.empty()) return {};
  const std::string file = image_file_of(text, name);
  if (reading != Reading::kPixels) {
    const InputImage mask = transparent_part(decode_image_with_alpha(file, name));
    if (mask || reading == Reading::kTransparent) return mask;
  }
  return to_input_image(decode_image(file, name));
}

/// Reads the files of input `encoded` into `given` of the rows.
void read_files(const Request& request, const RowValues& values, const char* encoded,
                InputImage flux::Request::*given, Reading reading,
                std::vector<flux::Request>& rows) {
  const std::vector<std::optional<std::string>> files = values.column<std::string>(encoded);
  if (!request.has_input(encoded)) {  // a parameter, of all rows
    const InputImage shared = read_file(files[0].value_or(""), encoded, reading);
    for (flux::Request& row : rows) row.*given = shared;
    return;
  }
  for (size_t row = 0; row < rows.size(); ++row) {
    rows[row].*given =
        read_file(files[row].value_or(""), name_of_row(encoded, row, rows.size()), reading);
  }
}

/// Returns the name under which it came.
std::string_view read_picture(const Request& request, const RowValues& values,
                              const PictureInput& picture, Reading reading,
                              std::vector<flux::Request>& rows) {
  const bool encoded = is_given(request, picture.encoded);
  if (!request.has_input(picture.pixels)) {
    if (encoded) read_files(request, values, picture.encoded, picture.given, reading, rows);
    return encoded ? picture.encoded : picture.pixels;
  }
  check(!encoded, ErrorCode::kInvalidArgument, "{} and {} are both given: give one", picture.pixels,
        picture.encoded);
  read_pixels(request, picture, rows);
  return picture.pixels;
}

/// The number whose float32 came over the wire: the shortest decimal that rounds to it. As a
/// float32 0.55 is above 0.55, and 12 of 20 steps would be done in place of 11.
double shortest_decimal(float value) {
  char text[32];
  const auto written = std::to_chars(std::begin(text), std::end(text), value);
  double decimal = 0;
  std::from_chars(std::begin(text), written.ptr, decimal);
  return decimal;
}

/// A tensor has a number for each row; it counts where a row has an image, unless none has.
void read_strength(const Request& request, const RowValues& values,
                   std::vector<flux::Request>& rows) {
  const std::vector<std::optional<double>> strengths = values.column<double>("strength");
  const bool is_float = request.has_input("strength");
  const bool any = std::any_of(rows.begin(), rows.end(),
                               [](const flux::Request& row) { return bool(row.image); });
  for (size_t row = 0; row < rows.size(); ++row) {
    if (!strengths[row] || (any && !rows[row].image)) continue;
    rows[row].strength =
        is_float ? shortest_decimal(static_cast<float>(*strengths[row])) : *strengths[row];
  }
}

bool read_alpha_mask(const Request& request) {
  const std::optional<nlohmann::json> given = request.parameter(kAlphaMask);
  check(!given || given->is_boolean(), ErrorCode::kInvalidArgument,
        "parameter {} is {}: must be true or false", kAlphaMask,
        given ? quoted(*given) : std::string());
  return given && given->get<bool>();
}

}  // namespace

std::vector<TensorSpec> image_input_specs() {
  return {kImage.spec(),
          {kImage.encoded, DataType::kBytes, {1}, true},
          kMask.spec(),
          {kMask.encoded, DataType::kBytes, {1}, true},
          {"strength", DataType::kFp32, {1}, true}};
}

std::span<const std::string_view> image_parameters() {
  static constexpr std::string_view kNames[] = {"encoded_image", "encoded_mask", "strength",
                                                kAlphaMask};
  return kNames;
}

void refuse_pixel_parameters(const Request& request) {
  for (const PictureInput& picture : {kImage, kMask}) {
    check(!request.parameter(picture.pixels), ErrorCode::kInvalidArgument,
          "parameter {} is not known: give the pixels as the input {}, or a file as {}",
          picture.pixels, picture.pixels, picture.encoded);
  }
}

ImageNames read_image_inputs(const Request& request, const RowValues& values,
                             const PipelineKindInfo& kind, std::vector<flux::Request>& rows) {
  const bool alpha = read_alpha_mask(request);
  const ImageNames names{
      read_picture(request, values, kImage, Reading::kPixels, rows),
      read_picture(request, values, kMask, alpha ? Reading::kAlphaMask : Reading::kPixels, rows)};
  const bool has_mask = request.has_input(kMask.pixels) || is_given(request, kMask.encoded);
  if (alpha && !has_mask && kind.mask != InputUse::kRefused && is_given(request, kImage.encoded)) {
    read_files(request, values, kImage.encoded, kMask.given, Reading::kTransparent, rows);
  }
  read_strength(request, values, rows);
  return names;
}

}  // namespace flux::triton

#include "pipeline/model_index.h"

#include <charconv>

#include "pipeline/components.h"
#include "pipeline/request.h"
#include "support/error.h"
#include "support/json_file.h"
#include "support/utf8.h"

namespace flux {
namespace {

constexpr const char* kOwnKey = "flux_triton";
constexpr size_t kLongestName = 1000;  // a directory's has 255 bytes, more where they are no UTF-8

/// Reads this project's own key.
void read_own_key(const nlohmann::json& own, ModelIndex& index) {
  check(own.is_object(), ErrorCode::kInvalidArgument, "{}: '{}' is {}, expected an object",
        index.file, kOwnKey, quoted(own));
  for (const auto& [key, value] : own.items()) {
    if (key == "format") {
      check(value.is_number_unsigned() && value >= 1, ErrorCode::kInvalidArgument,
            "{}: 'format' of '{}' is {}, expected a number from 1", index.file, kOwnKey,
            quoted(value));
      check(value <= kRepositoryFormat, ErrorCode::kInvalidArgument,
            "{}: made by a newer version of this program: its format is {}, and this one reads "
            "formats up "
            "to {}; use the newer program, or convert the checkpoint again with this one",
            index.file, quoted(value), kRepositoryFormat);
    } else if (key == "default_size") {
      if (value.is_string()) index.default_size = parse_image_size(value.get<std::string>());
      check(index.default_size.has_value(), ErrorCode::kInvalidArgument,
            "{}: 'default_size' of '{}' is {}, expected a text such as \"1024x1024\"", index.file,
            kOwnKey, quoted(value));
    } else if (key == "name") {
      if (value.is_string()) index.name = value.get<std::string>();
      check(!index.name.empty() && index.name.size() <= kLongestName, ErrorCode::kInvalidArgument,
            "{}: 'name' of '{}' is {}, expected a text of at most {} bytes", index.file, kOwnKey,
            quoted(value), kLongestName);
    } else {
      fail(ErrorCode::kInvalidArgument,
           "{}: '{}' of '{}' is not known: use default_size, format and name", index.file,
           excerpt(key), kOwnKey);
    }
  }
}

}  // namespace

ModelIndex read_model_index(const std::filesystem::path& file) {
  ModelIndex index;
  index.file = file;
  index.json = read_json_file(file);
  const nlohmann::json& json = index.json;
  const auto name = json.is_object() ? json.find("_class_name") : json.end();
  check(name != json.end() && name->is_string(), ErrorCode::kInvalidArgument,
        "{}: no '_class_name'; a diffusers checkpoint of FluxPipeline is expected", file);
  index.class_name = name->get<std::string>();
  for (const auto& [key, entry] : json.items()) {
    if (key == kOwnKey) read_own_key(entry, index);
    // Settings begin with "_"; [null, null] is an optional part that is not there.
    const bool pair =
        entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string();
    if (key.starts_with("_") || !pair) continue;
    index.components.push_back({key, entry[0].get<std::string>(), entry[1].get<std::string>()});
  }
  return index;
}

ModelIndex default_model_index(const std::filesystem::path& name) {
  ModelIndex index;
  index.file = name;
  index.class_name = "FluxPipeline";
  index.json = {{"_class_name", index.class_name}};
  for (const ComponentInfo& info : kComponents) {
    const std::string class_name(info.classes[0]);
    const bool of_transformers =
        info.stage == StageKind::kClipEncoder || info.stage == StageKind::kT5Encoder;
    const std::string library = of_transformers ? "transformers" : "diffusers";
    index.components.push_back({std::string(info.name), library, class_name});
    index.json[std::string(info.name)] = {library, class_name};
  }
  return index;
}

std::string model_index_for_repository(const ModelIndex& from, ImageSize default_size,
                                       std::string_view name) {
  nlohmann::json index = from.json;
  index[kOwnKey] = {{"default_size", fmt::format("{}x{}", default_size.height, default_size.width)},
                    {"format", kRepositoryFormat},
                    {"name", name}};
  // A directory's name need not be UTF-8.
  return index.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::optional<ImageSize> parse_image_size(std::string_view text) {
  ImageSize size;
  const char* end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, size.height);
  if (first.ec != std::errc() || first.ptr == end || *first.ptr != 'x') return std::nullopt;
  const auto second = std::from_chars(first.ptr + 1, end, size.width);
  if (second.ec != std::errc() || second.ptr != end) return std::nullopt;
  return size;
}

void check_image_size(std::string_view what, ImageSize size, const FluxConfig& config) {
  const int64_t multiple = config.size_multiple();
  const int64_t largest = RequestLimits{}.max_pixels_per_side;
  for (const int64_t side : {size.height, size.width}) {
    check(side >= multiple && side <= largest && side % multiple == 0, ErrorCode::kInvalidArgument,
          "{} {}x{}: {} is not a multiple of {} from {} to {}", what, size.height, size.width, side,
          multiple, multiple, largest);
  }
}

}  // namespace flux

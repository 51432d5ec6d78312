#include "front/image_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>
#include <set>

#include "front/api_error.h"
#include "support/edit_distance.h"
#include "support/json_file.h"
#include "support/utf8.h"

namespace flux::front {
namespace {

using nlohmann::json;

constexpr int kMostImages = 10;
constexpr int kMostPartialImages = 3;
constexpr int kLowestPriority = 10;
constexpr int kSideMultiple = 16;
constexpr int kMostSidePixels = 65536;  // the server has a lower bound, which it names

[[noreturn]] void refuse(std::string_view name, const json& value, std::string_view allowed) {
  throw ApiError(400, fmt::format("{} is {}: must be {}", name, quoted(value), allowed), name,
                 "invalid_value");
}

const std::string& text_of(std::string_view name, const json& value) {
  if (!value.is_string()) refuse(name, value, "text");
  return value.get_ref<const std::string&>();
}

bool is_integer(const json& value, int64_t low, int64_t high) {
  return value.is_number_integer() &&
         (!value.is_number_unsigned() ||
          value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) &&
         value.get<int64_t>() >= low && value.get<int64_t>() <= high;
}

int64_t integer_of(std::string_view name, const json& value, int64_t low, int64_t high) {
  if (!is_integer(value, low, high)) {
    refuse(name, value, fmt::format("a whole number from {} to {}", low, high));
  }
  return value.get<int64_t>();
}

/// For an input whose range the server knows.
template <typename Integer>
int64_t integer_input(std::string_view name, const json& value) {
  constexpr int64_t kMost = std::numeric_limits<Integer>::max();
  if (!is_integer(value, -kMost, kMost)) {
    refuse(name, value, fmt::format("a whole number that fits into {} bits", 8 * sizeof(Integer)));
  }
  return value.get<int64_t>();
}

bool flag_of(std::string_view name, const json& value) {
  if (!value.is_boolean()) refuse(name, value, "true or false");
  return value.get<bool>();
}

const std::string& one_of(std::string_view name, const json& value,
                          std::initializer_list<std::string_view> allowed) {
  const bool known =
      value.is_string() && std::find(allowed.begin(), allowed.end(),
                                     value.get_ref<const std::string&>()) != allowed.end();
  if (!known) refuse(name, value, fmt::format("one of {}", fmt::join(allowed, ", ")));
  return value.get_ref<const std::string&>();
}

struct Size {
  int width;
  int height;
};

/// Reads "WIDTHxHEIGHT"; nothing for any other text.
std::optional<Size> parse_size(std::string_view text) {
  Size size{};
  const char* end = text.data() + text.size();
  const auto [middle, width_error] = std::from_chars(text.data(), end, size.width);
  if (width_error != std::errc() || middle == end || *middle != 'x') return std::nullopt;
  const auto [stop, height_error] = std::from_chars(middle + 1, end, size.height);
  if (height_error != std::errc() || stop != end) return std::nullopt;
  for (const int side : {size.width, size.height}) {
    if (side < kSideMultiple || side > kMostSidePixels || side % kSideMultiple != 0) {
      return std::nullopt;
    }
  }
  return size;
}

void add_integer(ImageRequest& request, const char* name, int64_t value) {
  request.inputs.push_back({name, ValueType::kInt32, value});
}

void read_size(ImageRequest& request, std::string_view name, const json& value) {
  const auto size = parse_size(text_of(name, value));
  if (value != "auto" && !size) {
    refuse(name, value, "auto, or WIDTHxHEIGHT in multiples of 16, for example 1024x1024");
  }
  request.size = value.get<std::string>();
  if (!size) return;
  add_integer(request, "width", size->width);
  add_integer(request, "height", size->height);
  request.aliases["width"] = request.aliases["height"] = name;
}

void read_response_format(ImageRequest&, std::string_view name, const json& value) {
  if (text_of(name, value) == "url") {
    throw ApiError(400,
                   "response_format is \"url\": this server keeps no images to link to; use "
                   "b64_json, or leave it out",
                   name, "invalid_value");
  }
  one_of(name, value, {"b64_json"});
}

void read_background(ImageRequest&, std::string_view name, const json& value) {
  if (text_of(name, value) == "transparent") {
    throw ApiError(400,
                   "background is \"transparent\": the images have no transparency; use auto or "
                   "opaque",
                   name, "invalid_value");
  }
  one_of(name, value, {"auto", "opaque"});
}

void read_quality(ImageRequest& request, std::string_view name, const json& value) {
  if (value.is_number()) {
    refuse(name, value, "text such as auto; output_compression is the quality of a file");
  }
  request.quality = text_of(name, value);
}

/// How a field of OpenAI's API, or of the front's own, is read.
struct Field {
  std::string_view name;
  void (*read)(ImageRequest&, std::string_view name, const json& value);
};

constexpr Field kFields[] = {
    {"model", [](ImageRequest&, std::string_view, const json&) {}},  // has chosen the pipeline
    {"n",
     [](ImageRequest& request, std::string_view name, const json& value) {
       request.images = static_cast<int>(integer_of(name, value, 1, kMostImages));
       add_integer(request, "num_images_per_prompt", request.images);
       request.aliases["num_images_per_prompt"] = name;
     }},
    {"size", read_size},
    {"quality", read_quality},
    {"response_format", read_response_format},
    {"output_format",
     [](ImageRequest& request, std::string_view name, const json& value) {
       request.output_format = one_of(name, value, {"png", "jpeg", "webp"});
     }},
    // Its meaning depends on output_format: finish() has a look at both.
    {"output_compression",
     [](ImageRequest& request, std::string_view name, const json& value) {
       add_integer(request, "quality", integer_of(name, value, 0, 100));
       request.aliases["quality"] = name;
     }},
    {"background", read_background},
    {"moderation",
     [](ImageRequest&, std::string_view name, const json& value) {
       one_of(name, value, {"auto", "low"});
     }},
    {"style",
     [](ImageRequest&, std::string_view name, const json& value) {
       one_of(name, value, {"vivid", "natural"});
     }},
    {"input_fidelity",
     [](ImageRequest&, std::string_view name, const json& value) {
       one_of(name, value, {"high", "low"});
     }},
    {"user", [](ImageRequest&, std::string_view name, const json& value) { text_of(name, value); }},
    {"safety_identifier",
     [](ImageRequest&, std::string_view name, const json& value) { text_of(name, value); }},
    {"stream", [](ImageRequest& request, std::string_view name,
                  const json& value) { request.stream = flag_of(name, value); }},
    {"partial_images",
     [](ImageRequest& request, std::string_view name, const json& value) {
       request.partial_images = static_cast<int>(integer_of(name, value, 0, kMostPartialImages));
     }},
    {"progress", [](ImageRequest& request, std::string_view name,
                    const json& value) { request.progress = flag_of(name, value); }},
    {"priority",
     [](ImageRequest& request, std::string_view name, const json& value) {
       request.priority = static_cast<int>(integer_of(name, value, 1, kLowestPriority));
     }},
};

/// A field that becomes the input `input` as it is, of type `type` where the model lacks the input.
struct Passed {
  std::string_view name;
  std::string_view input;
  ValueType type;
};

constexpr Passed kPassed[] = {
    {"prompt", "prompt", ValueType::kText},
    {"negative_prompt", "negative_prompt", ValueType::kText},
    {"seed", "seed", ValueType::kInt64},
    {"steps", "num_inference_steps", ValueType::kInt32},
    {"num_inference_steps", "num_inference_steps", ValueType::kInt32},
    {"guidance", "guidance_scale", ValueType::kFloat32},
    {"guidance_scale", "guidance_scale", ValueType::kFloat32},
    {"true_cfg_scale", "true_cfg_scale", ValueType::kFloat32},
    {"lora", "lora", ValueType::kText},
    {"strength", "strength", ValueType::kFloat32},
    {"step_cache", "step_cache", ValueType::kText},
};

/// Inputs of the model that have another name here, which decides what else belongs to them.
struct Instead {
  std::string_view input;
  std::string_view field;
};

constexpr Instead kInstead[] = {{"height", "size"},
                                {"width", "size"},
                                {"num_images_per_prompt", "n"},
                                {"images", "n"},
                                {"preview_every", "partial_images"}};

/// The fields that a pipeline takes, as an error offers them.
std::vector<std::string_view> known_fields(const PipelineInfo& pipeline) {
  std::vector<std::string_view> names;
  for (const Field& field : kFields) names.push_back(field.name);
  for (const Passed& field : kPassed) names.push_back(field.name);
  for (const auto& [name, type] : pipeline.inputs) names.emplace_back(name);
  for (const Instead& each : kInstead) std::erase(names, each.input);
  return names;
}

[[noreturn]] void refuse_unknown(const std::string& name, const PipelineInfo& pipeline) {
  std::string hint;
  for (const Instead& each : kInstead) {
    if (each.input == name) hint = fmt::format("; use {}", each.field);
  }
  if (hint.empty() && name.size() <= 64) {
    size_t least = 2 + name.size() / 3;  // so many letters may be wrong
    for (const std::string_view known : known_fields(pipeline)) {
      const size_t distance = edit_distance(name, known);
      if (distance >= std::min(least, known.size())) continue;
      least = distance;
      hint = fmt::format("; did you mean {}?", known);
    }
  }
  throw ApiError(400, fmt::format("{} is no field of a request{}", quoted(json(name)), hint),
                 excerpt(name), "unknown_parameter");
}

InputValue converted(std::string_view name, std::string_view input, ValueType type,
                     const json& value) {
  InputValue made{std::string(input), type, {}};
  switch (type) {
    case ValueType::kText:
      made.value = text_of(name, value);
      break;
    case ValueType::kInt32:
      made.value = integer_input<int32_t>(name, value);
      break;
    case ValueType::kInt64:
      made.value = integer_input<int64_t>(name, value);
      break;
    case ValueType::kFloat32:
      if (!value.is_number()) refuse(name, value, "a number");
      made.value = value.get<double>();
      break;
    case ValueType::kBool:
      made.value = flag_of(name, value);
      break;
  }
  return made;
}

/// Adds an input under its field's name; two fields for one input contradict each other.
void pass(ImageRequest& request, const PipelineInfo& pipeline, const Passed& field,
          const json& value) {
  const auto [known, is_first] = request.aliases.try_emplace(std::string(field.input), field.name);
  if (!is_first) {
    throw ApiError(
        400,
        fmt::format("{} and {} are the same: leave one of them out", known->second, field.name),
        field.name, "invalid_value");
  }
  const auto input = pipeline.inputs.find(field.input);
  const bool has = input != pipeline.inputs.end();
  auto& place = has ? request.inputs : request.parameters;
  place.push_back(converted(field.name, field.input, has ? input->second : field.type, value));
  if (field.input == "num_inference_steps") {
    request.steps = static_cast<int>(std::max<int64_t>(0, std::get<int64_t>(place.back().value)));
  }
}

void read_field(ImageRequest& request, const PipelineInfo& pipeline, const std::string& name,
                const json& value) {
  for (const Field& field : kFields) {
    if (field.name == name) return field.read(request, name, value);
  }
  for (const Passed& field : kPassed) {
    if (field.name == name) return pass(request, pipeline, field, value);
  }
  const auto input = pipeline.inputs.find(name);
  const bool hidden = std::any_of(std::begin(kInstead), std::end(kInstead),
                                  [&](const Instead& each) { return each.input == name; });
  if (input == pipeline.inputs.end() || hidden) refuse_unknown(name, pipeline);
  pass(request, pipeline, {name, name, input->second}, value);
}

/// What depends on several fields.
void finish(ImageRequest& request, const json& body) {
  if (!body.contains("prompt") || body["prompt"].is_null()) {
    throw ApiError(400, "prompt is missing: it says what to generate", "prompt",
                   "missing_required_parameter");
  }
  if (request.partial_images > 0 && !request.stream) {
    refuse("partial_images", body["partial_images"], "0 without \"stream\": true");
  }
  if (request.progress && !request.stream) {
    refuse("progress", body["progress"], "false without \"stream\": true");
  }
  const auto quality =
      std::find_if(request.inputs.begin(), request.inputs.end(),
                   [](const InputValue& input) { return input.name == "quality"; });
  if (quality != request.inputs.end()) {
    auto& value = std::get<int64_t>(quality->value);
    if (request.output_format == "png" && value != 100) {
      refuse("output_compression", body["output_compression"],
             "100 with output_format png, which loses nothing");
    }
    value = std::max<int64_t>(value, 1);  // the encoders' lowest
  }
  request.inputs.push_back({"output_format", ValueType::kText, request.output_format});
}

}  // namespace

json parse_body(std::string_view text) {
  if (text.empty()) throw ApiError(400, "the body is empty: it must be a JSON object");
  std::set<std::string> names;
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > kMaxBodyDepth) {
      throw ApiError(400, fmt::format("the body nests deeper than {} levels", kMaxBodyDepth));
    }
    if (event == json::parse_event_t::key && depth == 1 &&
        !names.insert(parsed.get<std::string>()).second) {
      throw ApiError(400, fmt::format("the body has {} twice", quoted(parsed)),
                     excerpt(parsed.get<std::string>()), "invalid_value");
    }
    return true;
  };
  json body;
  try {
    body = json::parse(text, watch);
  } catch (const json::exception& error) {
    throw ApiError(400, fmt::format("the body is not valid JSON: {}", json_problem(text, error)));
  }
  if (!body.is_object()) throw ApiError(400, "the body must be a JSON object");
  return body;
}

std::string model_of(const json& body) {
  const auto model = body.find("model");
  if (model == body.end() || model->is_null()) return "";
  return text_of("model", *model);
}

ImageRequest read_image_request(const json& body, const PipelineInfo& pipeline) {
  ImageRequest request;
  for (const auto& [name, value] : body.items()) {
    // null is "not given" to OpenAI's clients, but the name must be known all the same.
    if (value.is_null()) {
      const std::vector<std::string_view> known = known_fields(pipeline);
      if (std::find(known.begin(), known.end(), name) == known.end()) {
        refuse_unknown(name, pipeline);
      }
      continue;
    }
    read_field(request, pipeline, name, value);
  }
  finish(request, body);
  return request;
}

bool is_text_field(std::string_view name, const PipelineInfo& pipeline) {
  constexpr std::string_view kOthers[] = {"n",        "output_compression", "stream",
                                          "progress", "partial_images",     "priority"};
  if (std::find(std::begin(kOthers), std::end(kOthers), name) != std::end(kOthers)) return false;
  std::string_view input = name;
  for (const Passed& field : kPassed) {
    if (field.name != name) continue;
    if (pipeline.inputs.count(field.input) == 0) return field.type == ValueType::kText;
    input = field.input;
  }
  const auto found = pipeline.inputs.find(input);
  return found == pipeline.inputs.end() || found->second == ValueType::kText;
}

std::string_view named_input(std::string_view message) {
  constexpr std::string_view kParameter = "parameter ";
  if (message.starts_with(kParameter)) message.remove_prefix(kParameter.size());
  return message.substr(0, message.find_first_not_of("abcdefghijklmnopqrstuvwxyz_0123456789"));
}

std::string field_in(std::string_view message, const ImageRequest& request) {
  const std::string_view name = named_input(message);
  const auto alias = request.aliases.find(name);
  if (alias != request.aliases.end()) return alias->second;
  for (const auto* values : {&request.inputs, &request.parameters}) {
    for (const InputValue& value : *values) {
      if (value.name == name) return value.name;
    }
  }
  return "";
}

}  // namespace flux::front

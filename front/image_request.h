#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "front/pipeline_info.h"

namespace flux::front {

/// A value for an input of the pipeline, or for a parameter of its request.
struct InputValue {
  std::string name;
  ValueType type = ValueType::kText;
  std::variant<std::string, int64_t, double, bool> value;  // kInt32, kInt64: int64_t
};

/// What a request for images asks for, in the pipeline's own words.
struct ImageRequest {
  std::vector<InputValue> inputs;
  /// What the model has no input for, although the front knows the name: the server says why not.
  std::vector<InputValue> parameters;
  /// The body's name for an input or parameter that has another one there.
  std::map<std::string, std::string, std::less<>> aliases;
  int images = 1;
  int priority = 0;      // 1 goes first, 10 last; 0: the server's default
  bool is_edit = false;  // of an image that came with it
  bool stream = false;
  bool progress = false;            // whether the stream tells each step, too
  int partial_images = 0;           // previews of each image in the stream
  int steps = 0;                    // 0: the pipeline's default
  std::shared_ptr<void> room = {};  // of what was uploaded, as long as it is held
  // For the answer, in OpenAI's words.
  std::string size = "auto";  // or "WIDTHxHEIGHT"
  std::string quality = "auto";
  std::string output_format = "png";
};

/// A body as JSON: an object without a name twice, of at most kMaxBodyDepth levels. Throws ApiError
/// (400) for anything else.
nlohmann::json parse_body(std::string_view text);
inline constexpr int kMaxBodyDepth = 16;

/// The value of "model"; empty when the body has none. Throws ApiError (400) when it is no text.
std::string model_of(const nlohmann::json& body);

/// Reads all fields of a body for the pipeline that it chose. Throws ApiError (400): a field that
/// is not known, with the nearest known one; a value that is not allowed, both with their `param`.
/// Ranges that depend on the checkpoint or the server's settings are left to the server.
ImageRequest read_image_request(const nlohmann::json& body, const PipelineInfo& pipeline);

/// Whether a field's values are texts: then "7" is one, and no number.
bool is_text_field(std::string_view name, const PipelineInfo& pipeline);

/// The name with which an error of the server begins: "num_inference_steps is 0: must be ...",
/// "parameter lora is not known".
std::string_view named_input(std::string_view message);

/// The field of the body that such an error is about; empty: none of them.
std::string field_in(std::string_view message, const ImageRequest& request);

}  // namespace flux::front

#include "front/edit_form.h"

#include <fmt/format.h>

#include "front/api_error.h"
#include "front/multipart.h"
#include "support/json_file.h"
#include "support/utf8.h"

namespace flux::front {
namespace {

using nlohmann::json;

void take_file(std::string& place, const char* field, const FormPart& part) {
  if (!part.is_file) {
    throw ApiError(400, fmt::format("{} is text: must be the file of an image", field), field,
                   "invalid_value");
  }
  if (!place.empty()) {
    throw ApiError(400, fmt::format("{} is given more than once: one is taken here", field), field,
                   "invalid_value");
  }
  if (part.content.empty()) {
    throw ApiError(400, fmt::format("{} is an empty file: must be a PNG, JPEG or WebP file", field),
                   field, "invalid_value");
  }
  place = part.content;
}

void take_text(EditForm& form, const FormPart& part) {
  const std::string name = excerpt(part.name);
  if (part.is_file) {
    throw ApiError(400, fmt::format("{} is a file: only image and mask are", quoted(json(name))),
                   name, "invalid_value");
  }
  if (find_invalid_utf8(part.content)) {
    throw ApiError(400, fmt::format("{} is no UTF-8", quoted(json(name))), name, "invalid_value");
  }
  if (!form.fields.emplace(part.name, part.content).second) {
    throw ApiError(400, fmt::format("the body has {} twice", quoted(json(name))), name,
                   "invalid_value");
  }
}

/// A text as the value that a body of JSON would have: what is no number, true or false is left to
/// the field's own error.
json value_of(std::string_view name, const std::string& text, const PipelineInfo& pipeline) {
  if (is_text_field(name, pipeline)) return text;
  const json value = json::parse(text, nullptr, /*allow_exceptions=*/false);
  return value.is_number() || value.is_boolean() ? value : json(text);
}

void add_file(ImageRequest& request, const char* input, const char* field, std::string file) {
  request.aliases[input] = field;
  if (!file.empty()) request.inputs.push_back({input, ValueType::kText, std::move(file)});
}

}  // namespace

EditForm parse_edit_form(std::string_view content_type, std::string_view body) {
  if (!is_multipart(content_type)) {
    throw ApiError(400, fmt::format("Content-Type is '{}': must be multipart/form-data",
                                    excerpt(content_type)));
  }
  EditForm form;
  for (const FormPart& part : parse_multipart(content_type, body)) {
    if (part.name == "image" || part.name == "image[]") {
      take_file(form.image, "image", part);
    } else if (part.name == "mask") {
      take_file(form.mask, "mask", part);
    } else {
      take_text(form, part);
    }
  }
  if (form.image.empty()) {
    throw ApiError(400, "image is missing: give the file of the image that is to be edited",
                   "image", "missing_required_parameter");
  }
  return form;
}

std::string model_of(const EditForm& form) {
  const auto model = form.fields.find("model");
  return model == form.fields.end() ? "" : model->second;
}

ImageRequest read_edit_request(EditForm form, const PipelineInfo& pipeline) {
  if (pipeline.inputs.count("encoded_image") == 0) {
    throw ApiError(400,
                   fmt::format("image cannot be taken by '{}': make its repository again with "
                               "flux-triton convert",
                               pipeline.id),
                   "image", "unsupported");
  }
  json body = json::object();
  for (const auto& [name, text] : form.fields) body[name] = value_of(name, text, pipeline);
  ImageRequest request = read_image_request(body, pipeline);
  request.is_edit = true;
  add_file(request, "encoded_image", "image", std::move(form.image));
  add_file(request, "encoded_mask", "mask", std::move(form.mask));
  request.aliases["mask_image"] = "mask";
  request.parameters.push_back({"alpha_mask", ValueType::kBool, true});
  return request;
}

}  // namespace flux::front

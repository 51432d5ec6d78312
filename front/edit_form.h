#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "front/image_request.h"

namespace flux::front {

/// A form that asks for an edited image: POST /v1/images/edits, as OpenAI's clients send it.
struct EditForm {
  std::map<std::string, std::string, std::less<>> fields;  // its texts, by name
  std::string image;                                       // files; empty: none
  std::string mask;
};

/// Takes a body apart. Throws ApiError (400): for what is no form, more images than one, a field
/// that comes twice, a file where a text is meant and the other way round.
EditForm parse_edit_form(std::string_view content_type, std::string_view body);

/// The value of "model"; empty when the form has none.
std::string model_of(const EditForm& form);

/// Reads the form for the pipeline that it chose, as read_image_request() does. What is transparent
/// in the mask, or in the image where there is no mask, is what is edited. Throws ApiError (400),
/// as that does, and for a pipeline that takes no images.
ImageRequest read_edit_request(EditForm form, const PipelineInfo& pipeline);

}  // namespace flux::front

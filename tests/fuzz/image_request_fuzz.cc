// Fuzzes the bodies of requests for images, and headers with keys.
// Run by `make fuzz`; the corpus is tests/fuzz/corpus/image_request.

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "front/api_error.h"
#include "front/api_keys.h"
#include "front/image_request.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using flux::front::ValueType;
  static const flux::front::PipelineInfo pipeline = [] {
    flux::front::PipelineInfo info;
    info.inputs = {{"prompt", ValueType::kText},
                   {"seed", ValueType::kInt64},
                   {"height", ValueType::kInt32},
                   {"num_inference_steps", ValueType::kInt32},
                   {"guidance_scale", ValueType::kFloat32},
                   {"is_new", ValueType::kBool}};
    return info;
  }();
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  flux::front::shown_key(text, text);
  try {
    const nlohmann::json body = flux::front::parse_body(text);
    flux::front::model_of(body);
    const auto request = flux::front::read_image_request(body, pipeline);
    // What is read is within the bounds that the rest relies on.
    if (request.images < 1 || request.images > 10 || request.inputs.empty()) std::abort();
    flux::front::field_in(text, request);
  } catch (const flux::front::ApiError& error) {
    if (error.status != 400 || flux::front::error_json(error).find('\n') != std::string::npos) {
      std::abort();
    }
  }
  return 0;
}

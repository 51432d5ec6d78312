// Fuzzes forms with images: a line with the Content-Type, then the body.
// Run by `make fuzz`; the corpus is tests/fuzz/corpus/multipart.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "front/api_error.h"
#include "front/edit_form.h"
#include "front/multipart.h"

namespace {

bool lies_in(std::string_view part, std::string_view whole) {
  return part.empty() ||
         (part.data() >= whole.data() && part.data() + part.size() <= whole.data() + whole.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using flux::front::ValueType;
  static const flux::front::PipelineInfo pipeline = [] {
    flux::front::PipelineInfo info;
    info.inputs = {{"prompt", ValueType::kText},
                   {"encoded_image", ValueType::kText},
                   {"encoded_mask", ValueType::kText},
                   {"seed", ValueType::kInt64},
                   {"strength", ValueType::kFloat32}};
    return info;
  }();
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t line = std::min(text.find('\n'), text.size());
  const std::string_view type = text.substr(0, line);
  const std::string_view body = text.substr(std::min(line + 1, text.size()));
  try {
    for (const auto& part : flux::front::parse_multipart(type, body)) {
      if (part.name.size() > flux::front::kMaxPartHeadBytes || !lies_in(part.content, body)) {
        std::abort();
      }
    }
    auto form = flux::front::parse_edit_form(type, body);
    const auto request = flux::front::read_edit_request(std::move(form), pipeline);
    if (!request.is_edit || request.images < 1 || request.images > 10) std::abort();
  } catch (const flux::front::ApiError& error) {
    if (error.status != 400 || flux::front::error_json(error).find('\n') != std::string::npos) {
      std::abort();
    }
  }
  return 0;
}

#include "front/image_request.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "front/api_error.h"

namespace flux::front {
namespace {

PipelineInfo pipeline() {
  PipelineInfo info;
  info.inputs = {{"prompt", ValueType::kText},
                 {"seed", ValueType::kInt64},
                 {"height", ValueType::kInt32},
                 {"width", ValueType::kInt32},
                 {"quality", ValueType::kInt32},
                 {"output_format", ValueType::kText},
                 {"guidance_scale", ValueType::kFloat32},
                 {"preview_every", ValueType::kInt32},
                 {"num_inference_steps", ValueType::kInt32},
                 {"is_new", ValueType::kBool}};
  return info;
}

ImageRequest read(const std::string& body) {
  return read_image_request(parse_body(body), pipeline());
}

const InputValue* input(const ImageRequest& request, std::string_view name) {
  const auto found = std::find_if(request.inputs.begin(), request.inputs.end(),
                                  [&](const InputValue& each) { return each.name == name; });
  return found == request.inputs.end() ? nullptr : &*found;
}

/// The error that a body ends with.
ApiError error_of(const std::string& body) {
  try {
    read(body);
  } catch (const ApiError& error) {
    return error;
  }
  return ApiError(200, "no error");
}

TEST(ImageRequest, ReadsWhatOpenAiDocuments) {
  const ImageRequest request = read(
      R"({"prompt": "a", "n": 3, "size": "64x32", "quality": "hd", "output_format": "webp",
          "output_compression": 0, "stream": true, "partial_images": 2, "user": "u"})");
  EXPECT_EQ(request.images, 3);
  EXPECT_EQ(request.partial_images, 2);
  EXPECT_TRUE(request.stream);
  EXPECT_EQ(request.size, "64x32");
  EXPECT_EQ(request.quality, "hd");
  EXPECT_EQ(std::get<int64_t>(input(request, "width")->value), 64);
  EXPECT_EQ(std::get<int64_t>(input(request, "height")->value), 32);
  EXPECT_EQ(std::get<std::string>(input(request, "output_format")->value), "webp");
  EXPECT_EQ(std::get<int64_t>(input(request, "quality")->value), 1);  // the lowest of the encoders
}

TEST(ImageRequest, LeavesToTheServerWhatIsNotGiven) {
  const ImageRequest request = read(R"({"prompt": "a", "size": "auto", "seed": null, "n": null})");
  ASSERT_EQ(request.inputs.size(), 2U);  // prompt and output_format
  EXPECT_EQ(request.size, "auto");
  EXPECT_EQ(request.steps, 0);
}

TEST(ImageRequest, PassesInputsThatOnlyTheModelKnows) {
  const ImageRequest request = read(R"({"prompt": "a", "is_new": true, "lora": "x", "steps": 7})");
  EXPECT_TRUE(std::get<bool>(input(request, "is_new")->value));
  ASSERT_EQ(request.parameters.size(), 1U);  // which this model lacks
  EXPECT_EQ(request.parameters[0].name, "lora");
  EXPECT_EQ(request.steps, 7);
}

TEST(ImageRequest, NamesTheFieldOfTheBodyInErrorsOfTheServer) {
  const ImageRequest request = read(R"({"prompt": "a", "steps": 7, "size": "16x16", "lora": "x"})");
  EXPECT_EQ(field_in("num_inference_steps is 7: must be", request), "steps");
  EXPECT_EQ(field_in("height is 16: must be", request), "size");
  EXPECT_EQ(field_in("prompt is blank", request), "prompt");
  EXPECT_EQ(field_in("parameter lora is not known", request), "lora");
  EXPECT_EQ(field_in("out of memory", request), "");
  EXPECT_EQ(field_in("", request), "");
}

TEST(ImageRequest, RefusesWithTheFieldsName) {
  EXPECT_EQ(error_of(R"({"prompt": "a", "stesp": 1})").param, "stesp");
  EXPECT_EQ(error_of(R"({"prompt": "a", "stesp": 1})").code, "unknown_parameter");
  EXPECT_EQ(error_of(R"({"prompt": "a", "height": 16})").param, "height");
  EXPECT_EQ(error_of(R"({"prompt": "a", "n": 18446744073709551615})").param, "n");
  EXPECT_EQ(error_of(R"({"seed": 1})").param, "prompt");
  EXPECT_EQ(error_of(R"({"prompt": "a", "steps": 1, "num_inference_steps": 1})").status, 400);
  EXPECT_EQ(error_of(R"({"prompt": "a", "quality": 5})").param, "quality");
}

TEST(ImageRequest, BoundsBodies) {
  std::string nested = R"({"prompt": )";
  nested += std::string(100000, '[');
  EXPECT_STREQ(error_of(nested).what(), "the body nests deeper than 16 levels");
  EXPECT_STREQ(error_of(R"({"a": 1, "a": 2})").what(), R"(the body has "a" twice)");
  EXPECT_EQ(error_of(R"({"user": {"a": 1, "b": {"a": 1}}, "prompt": "a"})").param, "user");
  EXPECT_EQ(error_of("[]").status, 400);
  EXPECT_EQ(error_of("").status, 400);
}

}  // namespace
}  // namespace flux::front

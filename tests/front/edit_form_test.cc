// Forms with images: parts of multipart/form-data, and what they ask for.
#include "front/edit_form.h"

#include <gtest/gtest.h>

#include "front/api_error.h"
#include "front/multipart.h"

namespace flux::front {
namespace {

constexpr const char* kType = "multipart/form-data; boundary=x";

std::string field(const std::string& name, const std::string& value) {
  return "--x\r\nContent-Disposition: form-data; name=\"" + name + "\"\r\n\r\n" + value + "\r\n";
}

std::string file(const std::string& name, const std::string& value) {
  return "--x\r\nContent-Disposition: form-data; name=\"" + name +
         "\"; filename=\"upload\"\r\nContent-Type: application/octet-stream\r\n\r\n" + value +
         "\r\n";
}

std::string problem_of(const std::string& body, const std::string& type = kType) {
  try {
    parse_edit_form(type, body);
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status, 400);
    return error.what();
  }
  return "none";
}

PipelineInfo pipeline() {
  PipelineInfo info;
  info.id = "bls";
  info.inputs = {{"prompt", ValueType::kText},        {"prompt_2", ValueType::kText},
                 {"encoded_image", ValueType::kText}, {"encoded_mask", ValueType::kText},
                 {"seed", ValueType::kInt64},         {"strength", ValueType::kFloat32}};
  return info;
}

TEST(Multipart, TakesPartsApart) {
  const std::string body = "before\r\n" + field("a", "1\r\n--y") +
                           file("b[]", std::string(3, '\0')) + field("", "") + "--x--\r\nafter";
  const std::vector<FormPart> parts = parse_multipart(kType, body);
  ASSERT_EQ(parts.size(), 3U);
  EXPECT_EQ(parts[0].name, "a");
  EXPECT_EQ(parts[0].content, "1\r\n--y");
  EXPECT_FALSE(parts[0].is_file);
  EXPECT_EQ(parts[1].name, "b[]");
  EXPECT_TRUE(parts[1].is_file);
  EXPECT_EQ(parts[1].content, std::string(3, '\0'));
  EXPECT_EQ(parts[2].content, "");
}

TEST(Multipart, TakesQuotedNamesAndBoundaries) {
  const std::string body =
      "--a b\r\ncontent-disposition: Form-Data; filename=\"x;y\" ; name=\"a\\\"b\"\r\n\r\n--a b--";
  const auto parts = parse_multipart("Multipart/Form-Data; charset=utf-8; boundary=\"a b\"", body);
  ASSERT_EQ(parts.size(), 1U);
  EXPECT_EQ(parts[0].name, "a\"b");
  EXPECT_TRUE(parts[0].content.empty());
}

TEST(Multipart, RefusesWhatIsNoForm) {
  EXPECT_NE(problem_of("", "text/plain").find("must be multipart/form-data"), std::string::npos);
  EXPECT_NE(problem_of("").find("its boundary is nowhere"), std::string::npos);
  EXPECT_NE(problem_of("--x--", "multipart/form-data").find("must give a boundary"),
            std::string::npos);
  EXPECT_NE(problem_of("--x--", "multipart/form-data; boundary=" + std::string(71, 'x'))
                .find("of 1 to 70 characters"),
            std::string::npos);
  EXPECT_NE(problem_of("--xy\r\n").find("a boundary before part 1 is not a line"),
            std::string::npos);
  EXPECT_NE(problem_of("--x\r\nA: b").find("head of part 1 does not end"), std::string::npos);
  EXPECT_NE(problem_of("--x\r\nA: b\r\n\r\n").find("part 1 has no Content-Disposition"),
            std::string::npos);
  EXPECT_NE(problem_of("--x\r\nA\r\n\r\n").find("line without a colon"), std::string::npos);
  std::string open = field("a", "b");
  open.resize(open.size() - 1);
  EXPECT_NE(problem_of(open).find("part 1 has no end"), std::string::npos);
  std::string many;
  for (int i = 0; i < 65; ++i) many += field("a", "b");
  EXPECT_NE(problem_of(many + "--x--").find("more than 64 parts"), std::string::npos);
}

TEST(EditForm, RefusesWhatCannotBeMeant) {
  EXPECT_EQ(problem_of(field("prompt", "a") + "--x--"),
            "image is missing: give the file of the image that is to be edited");
  EXPECT_EQ(problem_of(file("image[]", "1") + file("image[]", "2") + "--x--"),
            "image is given more than once: one is taken here");
  EXPECT_EQ(problem_of(field("image", "1") + "--x--"),
            "image is text: must be the file of an image");
  EXPECT_EQ(problem_of(file("image", "") + "--x--"),
            "image is an empty file: must be a PNG, JPEG or WebP file");
  EXPECT_EQ(problem_of(file("other", "1") + "--x--"),
            "\"other\" is a file: only image and mask are");
  EXPECT_EQ(problem_of(field("n", "1") + field("n", "1") + "--x--"), "the body has \"n\" twice");
  EXPECT_EQ(problem_of(field("a", "\xff") + "--x--"), "\"a\" is no UTF-8");
}

TEST(EditForm, ReadsTextsAsTheValuesThatAreMeant) {
  const std::string body = file("image", "picture") + file("mask", "mask") + field("prompt", "7") +
                           field("prompt_2", "true") + field("n", "2") + field("seed", "5") +
                           field("strength", "0.5") + field("stream", "true") + "--x--";
  const ImageRequest request = read_edit_request(parse_edit_form(kType, body), pipeline());
  EXPECT_TRUE(request.is_edit);
  EXPECT_TRUE(request.stream);
  EXPECT_EQ(request.images, 2);
  const auto value = [&](std::string_view name) {
    for (const InputValue& input : request.inputs) {
      if (input.name == name) return input.value;
    }
    return decltype(InputValue::value)();
  };
  EXPECT_EQ(std::get<std::string>(value("prompt")), "7");
  EXPECT_EQ(std::get<std::string>(value("prompt_2")), "true");
  EXPECT_EQ(std::get<std::string>(value("encoded_image")), "picture");
  EXPECT_EQ(std::get<std::string>(value("encoded_mask")), "mask");
  EXPECT_EQ(std::get<int64_t>(value("seed")), 5);
  EXPECT_EQ(std::get<double>(value("strength")), 0.5);
  EXPECT_EQ(field_in("encoded_image is no file", request), "image");
  EXPECT_EQ(field_in("mask_image is missing: x", request), "mask");
}

TEST(EditForm, NamesAFieldWhoseValueIsWrong) {
  const auto problem = [](const std::string& fields) -> std::string {
    const std::string body = file("image", "1") + field("prompt", "a") + fields + "--x--";
    try {
      read_edit_request(parse_edit_form(kType, body), pipeline());
    } catch (const ApiError& error) {
      return error.what();
    }
    return "none";
  };
  EXPECT_EQ(problem(""), "none");
  EXPECT_EQ(problem(field("n", "two")), "n is \"two\": must be a whole number from 1 to 10");
  EXPECT_EQ(problem(field("seed", "1.5")),
            "seed is 1.5: must be a whole number that fits into 64 bits");
  EXPECT_EQ(problem(field("stream", "yes")), "stream is \"yes\": must be true or false");
  EXPECT_EQ(problem(field("lora[name]", "x")), "\"lora[name]\" is no field of a request");
}

}  // namespace
}  // namespace flux::front

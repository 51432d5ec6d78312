#include "image/image_format.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "image/exif.h"
#include "support/error.h"

namespace flux {
namespace {

/// A gradient: every encoder has something to do.
Tensor gradient(int64_t height, int64_t width) {
  const Tensor pixels = Tensor::allocate({height, width, 3}, DType::kU8);
  auto* value = pixels.data<uint8_t>();
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      *value++ = static_cast<uint8_t>(255 * y / height);
      *value++ = static_cast<uint8_t>(255 * x / width);
      *value++ = static_cast<uint8_t>((x + y) % 256);
    }
  }
  return pixels;
}

TEST(ImageFormat, IsKnownByNameAndEnding) {
  EXPECT_EQ(parse_image_format("jpeg"), ImageFormat::kJpeg);
  EXPECT_EQ(parse_image_format("jpg"), std::nullopt);
  EXPECT_EQ(parse_image_format(""), std::nullopt);
  EXPECT_EQ(format_of_file("a/b.png"), ImageFormat::kPng);
  EXPECT_EQ(format_of_file("b.JPG"), ImageFormat::kJpeg);
  EXPECT_EQ(format_of_file("b.jpeg"), ImageFormat::kJpeg);
  EXPECT_EQ(format_of_file("b.webp"), ImageFormat::kWebp);
  EXPECT_EQ(format_of_file("b.gif"), std::nullopt);
  EXPECT_EQ(format_of_file("png"), std::nullopt);
}

TEST(EncodeImage, GivesFilesOfTheFormatAndTheSameBytesAgain) {
  const Tensor pixels = gradient(40, 56);
  const ImageTexts texts{{{"seed", "7"}}, "a circle\nSteps: 4"};
  const std::string png = encode_image(ImageFormat::kPng, pixels, 95, texts);
  EXPECT_TRUE(png.starts_with("\x89PNG\r\n"));
  EXPECT_NE(png.find(std::string("tEXtparameters\0a circle", 23)), std::string::npos);
  EXPECT_NE(png.find(std::string("tEXtseed\0"
                                 "7",
                                 10)),
            std::string::npos);
  const std::string jpeg = encode_image(ImageFormat::kJpeg, pixels, 95, texts);
  EXPECT_TRUE(jpeg.starts_with("\xff\xd8"));
  EXPECT_TRUE(jpeg.ends_with("\xff\xd9"));
  EXPECT_NE(jpeg.find(std::string("Exif\0\0MM\0*", 10)), std::string::npos);
  const std::string webp = encode_image(ImageFormat::kWebp, pixels, 95, texts);
  EXPECT_TRUE(webp.starts_with("RIFF"));
  EXPECT_NE(webp.find("EXIF"), std::string::npos);
  for (const auto format : {ImageFormat::kPng, ImageFormat::kJpeg, ImageFormat::kWebp}) {
    EXPECT_EQ(encode_image(format, pixels, 80, texts), encode_image(format, pixels, 80, texts));
    EXPECT_EQ(encode_image(format, pixels, 80, {}).find("Steps"), std::string::npos);
  }
  EXPECT_LT(encode_image(ImageFormat::kJpeg, pixels, 30, {}).size(), jpeg.size());
  EXPECT_LT(encode_image(ImageFormat::kWebp, pixels, 30, {}).size(), webp.size());
}

TEST(EncodeImage, TakesAnySizeAndLongTexts) {
  const ImageTexts texts{{}, std::string(70'000, 'a') + "\xc3\xa4"};
  for (const auto format : {ImageFormat::kPng, ImageFormat::kJpeg, ImageFormat::kWebp}) {
    for (const auto& [height, width] : {std::pair(1, 1), std::pair(16, 1024), std::pair(17, 3)}) {
      EXPECT_GT(encode_image(format, gradient(height, width), 1, texts).size(), 50u);
    }
  }
}

TEST(EncodeImage, RefusesWhatAreNoPixels) {
  EXPECT_THROW(encode_image(ImageFormat::kPng, Tensor::allocate({4, 4}, DType::kU8), 95, {}),
               Error);
  EXPECT_THROW(encode_image(ImageFormat::kWebp, Tensor::allocate({4, 4, 3}, DType::kF32), 95, {}),
               Error);
}

TEST(Exif, HasTheCommentInUtf16) {
  // "a", an umlaut, and a character beyond 16 bits, which takes a surrogate pair.
  const std::string exif = exif_with_comment("a\xc3\xa4\xf0\x9f\xa6\x8a");
  const std::string comment("UNICODE\0\0a\0\xe4\xd8\x3e\xdd\x8a", 16);
  ASSERT_GE(exif.size(), comment.size());
  EXPECT_EQ(exif.substr(exif.size() - comment.size()), comment);
  EXPECT_EQ(exif.size(), 44u + comment.size());
}

}  // namespace
}  // namespace flux

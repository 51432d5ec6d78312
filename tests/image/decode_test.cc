#include "image/decode.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <functional>

#include "image/image_format.h"
#include "image/image_golden.h"
#include "support/base64.h"
#include "support/error.h"

namespace flux {
namespace {

namespace fs = std::filesystem;

/// Every file of tests/golden/images, by its name.
std::vector<std::string> golden_names() {
  std::vector<std::string> names;
  for (const char* folder : {"png", "jpg", "webp"}) {
    for (const auto& entry : fs::directory_iterator(testing::image_golden_folder() / folder)) {
      names.push_back(entry.path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

TEST(DecodeImage, GivesThePixelsOfPillow) {
  const auto expected = testing::open_image_golden("decoded.safetensors");
  const std::vector<std::string> names = golden_names();
  EXPECT_GT(names.size(), 100u);
  for (const std::string& name : names) {
    SCOPED_TRACE(name);
    const std::string file = testing::read_image_golden(name);
    testing::expect_equal(decode_image(file, name), testing::tensor(*expected, name + "/rgb"));
    testing::expect_equal(decode_image_with_alpha(file, name),
                          testing::tensor(*expected, name + "/rgba"));
    testing::expect_equal(decode_mask(file, name), testing::tensor(*expected, name + "/l"));
  }
}

TEST(DecodeImage, TakesFilesThatEncodeImageMakes) {
  const ConstTensor pixels = decode_image(testing::read_image_golden("filtered.png"), "image");
  const ImageTexts texts{{{"seed", "7"}}, "a circle\nSteps: 4"};
  const std::string png = encode_image(ImageFormat::kPng, pixels, 95, texts);
  testing::expect_equal(decode_image(png, "image"), pixels);
  for (const auto format : {ImageFormat::kJpeg, ImageFormat::kWebp}) {
    const Tensor found = decode_image(encode_image(format, pixels, 95, texts), "image");
    EXPECT_EQ(found.shape(), pixels.shape());
  }
}

/// What an image that is refused says.
std::string error_of(const std::function<void()>& decode) {
  try {
    decode();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "nothing is wrong";
}

TEST(DecodeImage, RefusesEveryBeginningOfAFile) {
  for (const char* name : {"rgb8.png", "rgba16_interlaced.png", "palette4_transparent.png",
                           "420.jpg", "progressive.jpg", "cmyk.jpg", "lossy.webp",
                           "lossless_alpha.webp", "animated_part.webp", "exif6.webp"}) {
    const std::string file = testing::read_image_golden(name);
    // The last bytes of a JPEG file are only its mark of the end.
    const size_t needed = file.size() - (std::string_view(name).ends_with("jpg") ? 2 : 0);
    for (size_t size = 0; size < needed; ++size) {
      const std::string line = error_of([&] { decode_image(file.substr(0, size), "it"); });
      EXPECT_TRUE(line.starts_with("it: ")) << name << " of " << size << " bytes: " << line;
    }
  }
}

TEST(DecodeImage, HoldsItsBounds) {
  const std::string file = testing::read_image_golden("filtered.png");  // 47 x 61
  EXPECT_EQ(error_of([&] { decode_image(file, "it", {.bytes = 100}); }),
            "it: has " + std::to_string(file.size()) +
                " bytes: at most 100 are allowed; make it smaller");
  EXPECT_EQ(error_of([&] { decode_image(file, "it", {.pixels = 2866}); }),
            "it: an image of 47x61 has 2867 pixels: at most 2866 are allowed; make it smaller");
  EXPECT_EQ(error_of([&] { decode_image(file, "it", {.side = 60}); }),
            "it: an image of 47x61 pixels: a side must be 1 to 60; make it smaller");
  EXPECT_EQ(error_of([&] { decode_image(file, "it", {.ratio = 1}); }),
            "it: an image of 47x61 pixels: the longer side must be at most 1 times the shorter "
            "one; crop it");
  EXPECT_NO_THROW(decode_image(file, "it", {file.size(), 2867, 61, 2}));
}

TEST(ImageFileOf, TakesBytesBase64AndDataUrls) {
  for (const char* name : {"rgb8.png", "420.jpg", "lossy.webp"}) {
    const std::string file = testing::read_image_golden(name);
    const std::string text = encode_base64(file);
    EXPECT_EQ(image_file_of(file, "it"), file);
    EXPECT_EQ(image_file_of(text, "it"), file);
    EXPECT_EQ(image_file_of("data:image/png;base64," + text, "it"), file);
    std::string lines;
    for (size_t at = 0; at < text.size(); at += 76) lines += text.substr(at, 76) + "\r\n";
    EXPECT_EQ(image_file_of(lines, "it"), file);
  }
  // Bytes that are no text are left for the decoder to refuse.
  EXPECT_EQ(image_file_of("\x01\x02", "it"), "\x01\x02");
  EXPECT_EQ(error_of([] { image_file_of("hello", "it"); }),
            "it: 5 base64 characters, not a multiple of 4; send the bytes of an image or their "
            "base64");
  EXPECT_EQ(error_of([] { image_file_of("data:image/png,abcd", "it"); }),
            "it: is a data URL of another form: must begin with data:image/png;base64, or the "
            "like");
  EXPECT_EQ(error_of([] { image_file_of(std::string(300, 'A'), "it", {.bytes = 100}); }),
            "it: has 300 bytes: an image may have 100 at most; make it smaller");
}

}  // namespace
}  // namespace flux

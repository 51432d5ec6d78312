#include <gtest/gtest.h>

#include <functional>

#include "image/decode.h"
#include "image/image_golden.h"
#include "image/png_checksums.h"
#include "support/error.h"

namespace flux {
namespace {

using namespace std::string_literals;
using testing::read_image_golden;
using testing::with_png_checksums;

/// A golden file with other bytes from `at` on.
std::string patched(std::string file, size_t at, const std::string& bytes) {
  return file.replace(at, bytes.size(), bytes);
}

/// The place of a text in a file.
size_t place(const std::string& file, const std::string& text) {
  const size_t at = file.find(text);
  EXPECT_NE(at, std::string::npos) << text;
  return at;
}

// Width, height, depth and colour type follow a PNG file's first 16 bytes.
std::string png_of_size(const std::string& size) {
  return with_png_checksums(patched(read_image_golden("rgb8.png"), 16, size));
}

std::string png_without(const std::string& chunk) {
  std::string file = read_image_golden("palette4.png");
  const size_t at = place(file, chunk) - 4;
  const size_t size =
      static_cast<unsigned char>(file[at + 2]) * 256u + static_cast<unsigned char>(file[at + 3]);
  return file.erase(at, size + 12);
}

/// A JPEG file with other bytes after one of its markers, length and all; 0xc0 begins the frame.
std::string jpeg_with(const std::string& name, const std::string& marker, size_t after,
                      const std::string& bytes) {
  const std::string file = read_image_golden(name);
  return patched(file, place(file, "\xff"s + marker) + 2 + after, bytes);
}

std::string jpeg_of_many_scans() {
  std::string file = read_image_golden("grey_progressive.jpg");
  const size_t scan = place(file, "\xff\xda"s);
  // The first scan again and again, before the end of the file.
  const std::string first = file.substr(scan, file.find("\xff\xc4"s, scan) - scan);
  for (int i = 0; i < 101; ++i) file.insert(scan, first);
  return file;
}

/// Without the third component in the frame and in the scan.
std::string jpeg_of_two_components() {
  std::string file = read_image_golden("444.jpg");
  const size_t frame = place(file, "\xff\xc0");
  file.replace(frame + 3, 1, "\x0e").replace(frame + 9, 1, "\2").erase(frame + 16, 3);
  const size_t scan = place(file, "\xff\xda");
  return file.replace(scan + 3, 1, "\x0a").replace(scan + 4, 1, "\2").erase(scan + 9, 2);
}

struct BadImage {
  const char* title;
  std::function<std::string()> make;
  const char* line;
};

const BadImage kBadImages[] = {
    {"empty", [] { return ""s; }, "it: is empty: must be PNG, JPEG or WebP"},
    {"text", [] { return "hello, world"s; },
     "it: its 12 bytes begin as no image that is known: must be PNG, JPEG or WebP"},
    {"GIF", [] { return "GIF89a\1\0\1\0"s; },
     "it: its format is GIF: must be PNG, JPEG or WebP; convert it"},
    {"BMP", [] { return "BM\x46\0\0\0"s; },
     "it: its format is BMP: must be PNG, JPEG or WebP; convert it"},
    {"TIFF", [] { return "II*\0\x08\0\0\0"s; },
     "it: its format is TIFF: must be PNG, JPEG or WebP; convert it"},
    {"AVIF", [] { return "\0\0\0\x1c"s + "ftypavif"; },
     "it: its format is AVIF: must be PNG, JPEG or WebP; convert it"},
    {"HEIF", [] { return "\0\0\0\x1c"s + "ftypheic"; },
     "it: its format is HEIF: must be PNG, JPEG or WebP; convert it"},
    {"an LFS pointer",
     [] { return "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n"s; },
     "it: is a git LFS pointer, not the file itself: run `git lfs pull` where it was cloned, or "
     "download the file"},
    {"PNG, cut in the header", [] { return read_image_golden("rgb8.png").substr(0, 20); },
     "it: the PNG file ends within the image, after 20 bytes; give the whole file"},
    {"PNG, cut in the pixels",
     [] {
       const std::string file = read_image_golden("rgb8.png");
       return file.substr(0, file.size() - 100);
     },
     "it: the PNG file ends within the image, after 1254 bytes; give the whole file"},
    {"PNG, without its end",
     [] {
       const std::string file = read_image_golden("rgb8.png");
       return file.substr(0, file.size() - 12);
     },
     "it: the PNG file ends within the image, after 1342 bytes; give the whole file"},
    {"PNG, cut, which is seen before anything is read",
     [] { return patched(read_image_golden("rgb8.png"), 20, "\1"s).substr(0, 1000); },
     "it: the PNG file ends within the image, after 1000 bytes; give the whole file"},
    {"PNG, a wrong checksum", [] { return patched(read_image_golden("rgb8.png"), 20, "\1"s); },
     "it: the PNG file cannot be decoded (IHDR: CRC error); save it again"},
    {"PNG, a wrong checksum of a text",
     [] {
       const std::string file = read_image_golden("xmp5.png");
       return patched(file, place(file, "adobe:ns"), "A");
     },
     "it: the PNG file cannot be decoded (iTXt: CRC error); save it again"},
    {"PNG, no width", [] { return png_of_size("\0\0\0\0\0\0\0\5"s); },
     "it: the PNG file cannot be decoded (Invalid IHDR data); save it again"},
    {"PNG, endless sides", [] { return png_of_size("\x7f\xff\xff\xff\x7f\xff\xff\xff"s); },
     "it: an image of 2147483647x2147483647 pixels: a side must be 1 to 32768; make it smaller"},
    {"PNG, too many pixels", [] { return png_of_size("\0\0\x80\0\0\0\x80\0"s); },
     "it: an image of 32768x32768 has 1073741824 pixels: at most 67108864 are allowed; make it "
     "smaller"},
    {"PNG, too long", [] { return png_of_size("\0\0\1\1\0\0\0\1"s); },
     "it: an image of 257x1 pixels: the longer side must be at most 256 times the shorter one; "
     "crop it"},
    {"PNG, 3 bits", [] { return png_of_size("\0\0\0\1\0\0\0\1\3"s); },
     "it: the PNG file cannot be decoded (Invalid IHDR data); save it again"},
    {"PNG, no palette", [] { return png_without("PLTE"); },
     "it: the PNG file cannot be decoded (IDAT: Missing PLTE before IDAT); save it again"},
    {"PNG, no pixels", [] { return png_without("IDAT"); },
     "it: the PNG file cannot be decoded (IEND: out of place); save it again"},
    {"PNG, fewer pixels than its size", [] { return png_of_size("\0\0\0\x17\0\0\0\x40"s); },
     "it: the PNG file cannot be decoded (Not enough image data); save it again"},
    {"PNG, pixels that do not unpack",
     [] {
       const std::string file = read_image_golden("rgb8.png");
       return with_png_checksums(patched(file, place(file, "IDAT") + 4, "\0\0"s));
     },
     "it: the PNG file cannot be decoded (IDAT: unknown compression method); save it again"},
    {"JPEG, its first bytes", [] { return "\xff\xd8\xff"s; },
     "it: the JPEG file ends within the image, after 3 bytes; give the whole file"},
    {"JPEG, cut in the header", [] { return read_image_golden("420.jpg").substr(0, 200); },
     "it: the JPEG file ends within the image, after 200 bytes; give the whole file"},
    {"JPEG, cut in the pixels",
     [] {
       const std::string file = read_image_golden("420.jpg");
       return file.substr(0, file.size() - 100);
     },
     "it: the JPEG file ends within the image, after 1450 bytes; give the whole file"},
    {"JPEG, two components", jpeg_of_two_components,
     "it: the JPEG file has 2 components: must be 1 (grey), 3 (colours) or 4 (inks)"},
    {"JPEG, 12 bits", [] { return jpeg_with("420.jpg", "\xc0", 2, "\x0c"); },
     "it: the JPEG file cannot be decoded (Unsupported JPEG data precision 12); save it again"},
    {"JPEG, no height", [] { return jpeg_with("420.jpg", "\xc0", 3, "\0\0"s); },
     "it: the JPEG file cannot be decoded (Empty JPEG image (DNL not supported)); save it again"},
    {"JPEG, endless sides", [] { return jpeg_with("420.jpg", "\xc0", 3, "\x9c\x40\x9c\x40"); },
     "it: an image of 40000x40000 pixels: a side must be 1 to 32768; make it smaller"},
    {"JPEG, lossless",
     [] {
       const std::string file = read_image_golden("420.jpg");
       return patched(file, place(file, "\xff\xc0"), "\xff\xc3");
     },
     "it: the JPEG file cannot be decoded (Unsupported JPEG process: SOF type 0xc3); save it "
     "again"},
    {"JPEG, too many scans", jpeg_of_many_scans,
     "it: the JPEG file has more than 100 scans; save it again"},
    {"JPEG, no tables",
     [] {
       const std::string file = read_image_golden("420.jpg");
       return patched(file, place(file, "\xff\xdb"), "\xff\xe5");
     },
     "it: the JPEG file cannot be decoded (Quantization table 0x00 was not defined); save it "
     "again"},
    {"WebP, its first bytes", [] { return read_image_golden("lossy.webp").substr(0, 16); },
     "it: the WebP file ends within the image, after 16 bytes; give the whole file"},
    {"WebP, cut in the pixels",
     [] {
       const std::string file = read_image_golden("lossy.webp");
       return file.substr(0, file.size() - 100);
     },
     "it: the WebP file ends within the image, after 738 bytes; give the whole file"},
    {"WebP, endless sides",
     [] { return patched(read_image_golden("animated_part.webp"), 24, "\xff\xff\0\0\0\0"s); },
     "it: an image of 65536x1 pixels: a side must be 1 to 32768; make it smaller"},
    {"WebP, another size in its pixels",
     [] { return patched(read_image_golden("exif6.webp"), 24, "\1\0\0"s); },
     "it: the WebP file cannot be decoded (its pixels are damaged); save it again"},
    {"WebP, damaged pixels",
     [] {
       const std::string file = read_image_golden("lossless.webp");
       return patched(file, 30, std::string(40, '\xff'));
     },
     "it: the WebP file cannot be decoded (its pixels are damaged); save it again"},
    {"WebP, a frame outside of the picture",
     [] {
       const std::string file = read_image_golden("animated_part.webp");
       return patched(file, place(file, "ANMF") + 8, "\x07");
     },
     "it: the WebP file cannot be decoded (its chunks do not fit); save it again"},
};

TEST(BadImages, EachGivesItsLineAndNothingElse) {
  for (const auto& [title, make, line] : kBadImages) {
    SCOPED_TRACE(title);
    const std::string file = make();
    ::testing::internal::CaptureStderr();
    std::string found = "nothing is wrong";
    try {
      decode_image(file, "it");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      found = error.what();
    }
    EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
    EXPECT_EQ(found, line);
  }
}

}  // namespace
}  // namespace flux

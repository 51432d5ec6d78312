#include "support/base64.h"

#include <gtest/gtest.h>

#include "support/error.h"

namespace flux {
namespace {

struct Pair {
  std::string bytes;
  std::string text;
};

// The examples of RFC 4648, and bytes that need every bit.
const Pair kPairs[] = {{"", ""},
                       {"f", "Zg=="},
                       {"fo", "Zm8="},
                       {"foo", "Zm9v"},
                       {"foob", "Zm9vYg=="},
                       {"fooba", "Zm9vYmE="},
                       {"foobar", "Zm9vYmFy"},
                       {std::string("\xff\xfe\0\xfb", 4), "//4A+w=="}};

TEST(Base64, EncodesAndDecodes) {
  for (const auto& [bytes, text] : kPairs) {
    EXPECT_EQ(encode_base64(bytes), text);
    EXPECT_EQ(decode_base64(text, "text"), bytes);
  }
}

TEST(Base64, RefusesWhatIsNotBase64) {
  for (const char* text : {"Zg", "Zg=", "Z===", "Zm9v Zg=", "Zm-v", "Zm9v=Zg="}) {
    try {
      decode_base64(text, "the text");
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_TRUE(std::string_view(error.what()).starts_with("the text: ")) << error.what();
    }
  }
}

}  // namespace
}  // namespace flux

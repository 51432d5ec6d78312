#include "support/utf8.h"

#include <gtest/gtest.h>

namespace flux {
namespace {

TEST(ReadableMessage, LeavesUtf8AsItIs) {
  for (const char* text : {"", "a", "caf\xc3\xa9", "\xe2\x82\xac\xf0\x9f\x98\x80", "two\nlines"}) {
    EXPECT_EQ(readable_message(text), text);
  }
}

TEST(ReadableMessage, WritesBytesThatAreNoUtf8AsNumbers) {
  EXPECT_EQ(readable_message("a\xff"), "a\\xff");
  EXPECT_EQ(readable_message("\xc3"), "\\xc3");
  EXPECT_EQ(readable_message("\xff\xfe{\xc3\xa9"), "\\xff\\xfe{\xc3\xa9");
  EXPECT_EQ(readable_message("\xed\xa0\x80"), "\\xed\\xa0\\x80");
}

TEST(ReadableMessage, LeavesOutTheMiddleOfALongOne) {
  for (const char* piece : {"x", "\xc3\xa9", "\xe2\x82\xac", "\xff"}) {
    std::string text = "begin";
    for (int i = 0; i < 20000; ++i) text += piece;
    const std::string short_text = readable_message(text + "end");
    EXPECT_LE(short_text.size(), kMaxMessageBytes);
    EXPECT_GE(short_text.size(), kMaxMessageBytes - 100);
    EXPECT_FALSE(find_invalid_utf8(short_text));
    EXPECT_TRUE(short_text.starts_with("begin"));
    EXPECT_TRUE(short_text.ends_with("end"));
    EXPECT_NE(short_text.find(" bytes ...] "), std::string::npos);
  }
  const std::string longest(kMaxMessageBytes, 'x');
  EXPECT_EQ(readable_message(longest), longest);
}

TEST(Utf8, AnExcerptSaysHowLongTheTextIs) {
  EXPECT_EQ(excerpt("short"), "short");
  const std::string longest(kMaxQuotedBytes, 'x');
  EXPECT_EQ(excerpt(longest), longest);
  EXPECT_EQ(excerpt(longest + "y"), longest + "... (201 bytes)");
  // It ends with a whole character.
  EXPECT_EQ(excerpt("x" + std::string(kMaxQuotedBytes - 2, 'x') + "\xc3\xa9y"),
            longest.substr(1) + "... (202 bytes)");
}

}  // namespace
}  // namespace flux

#include "support/json_outline.h"

#include <gtest/gtest.h>

#include <string>

namespace flux {
namespace {

TEST(JsonOutline, CountsLevels) {
  EXPECT_EQ(outline_of("1", 4).depth, 0);
  EXPECT_EQ(outline_of("{}", 4).depth, 1);
  EXPECT_EQ(outline_of(R"({"a":[{"b":[]}, 1], "c":[]})", 4).depth, 4);
  EXPECT_EQ(outline_of("[[],[],[[]]]", 4).depth, 3);
  EXPECT_EQ(outline_of(std::string(1'000'000, '['), 4).depth, 5);
  EXPECT_EQ(outline_of("[[}", 4).depth, 2);
}

TEST(JsonOutline, FindsNamesThatTheOutermostObjectHasTwice) {
  EXPECT_EQ(outline_of(R"({"a":{"b":1},"a":2})", 4).duplicate, "a");
  EXPECT_FALSE(outline_of(R"({"a":{"a":1,"a":2},"b":{"a":1}})", 4).duplicate.has_value());
}

/// It takes as long as this has characters: nlohmann's parser with a callback takes minutes.
TEST(JsonOutline, OfManyObjects) {
  std::string text = "{";
  for (int i = 0; i < 500'000; ++i) text += "\"" + std::to_string(i) + "\":{},";
  text.back() = '}';
  EXPECT_EQ(outline_of(text, 4).depth, 2);
}

}  // namespace
}  // namespace flux

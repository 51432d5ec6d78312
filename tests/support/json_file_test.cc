#include "support/json_file.h"

#include <gtest/gtest.h>

#include <string>

namespace flux {
namespace {

std::string problem(const std::string& text) {
  try {
    const auto parsed = nlohmann::json::parse(text);
    return "fine: " + parsed.dump();
  } catch (const nlohmann::json::exception& error) {
    return json_problem(text, error);
  }
}

TEST(JsonProblem, SaysPlaceAndCause) {
  EXPECT_EQ(problem("{\n  \"a\": 1,\n}"), "line 3, column 1: unexpected '}'");
  EXPECT_EQ(problem("{\"a\": nil}"), "line 1, column 8: unexpected 'i'");
  EXPECT_EQ(problem("{\"a\": \"b\n\"}"), "line 1, column 9: unexpected end of the line");
  EXPECT_EQ(problem("{\"\xff\": 1}"), "line 1, column 3: unexpected byte 0xff");
  EXPECT_EQ(problem("{\"a\": 1"), "it ends too early");
  EXPECT_EQ(problem("[1e999]"), "it holds a number that is out of range");
}

}  // namespace
}  // namespace flux

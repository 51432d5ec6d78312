#include "convert/text_format.h"

#include <gtest/gtest.h>

namespace flux {
namespace {

std::string error_in(std::string_view text) {
  return find_text_format_error(text).value_or("none");
}

TEST(TextFormat, TakesWhatProtobufTakes) {
  for (const char* text : {
           "", "# only a comment", "name: \"bls\"", "name: 'b' \"ls\"  # two texts are one",
           "max_batch_size: 8, backend: \"flux\"; input [ { name: \"a\" }, { name: \"b\" } ]",
           "input { dims: [ -1, 64 ] } input < dims: [] >",
           "parameters { key: \"a\" value: { string_value: \"\\n\\\\\\\"\\x4a\\101\\u00e9\" } }",
           "dynamic_batching { }\r\noptimization { a: -1.5e-3 b: .5 c: 1. d: 2f e: 0x1F f: - inf }",
           "[some.extension/type] { a: true }",
           "parameters { key: \"a\" } parameters { key: \"a\" }",
           "newer: 1 newer: 2",  // a field that is not known may be a list
       }) {
    EXPECT_EQ(error_in(text), "none") << text;
  }
}

TEST(TextFormat, SaysWhereAndWhat) {
  const std::pair<const char*, const char*> kCases[] = {
      {"oops {", "line 1, column 7: the text ends where } is expected"},
      {"a: 1\n  }", "line 2, column 3: '}' is there where the name of a field is expected"},
      {"a:", "line 1, column 3: the text ends where a value is expected"},
      {"a", "line 1, column 2: the text ends where ':' or '{' is expected"},
      {"a 1", "line 1, column 3: '1' is there where ':' or '{' is expected"},
      {"a: { b: 1 ]", "line 1, column 11: ']' is there where the name of a field is expected"},
      {"a: < b: 1 }", "line 1, column 11: '}' is there where the name of a field is expected"},
      {"a: [ 1 2 ]", "line 1, column 8: '2' is there where ',' or ']' is expected"},
      {"a: [ 1, ]", "line 1, column 9: ']' is there where a value is expected"},
      {"a: [ [ 1 ] ]", "line 1, column 6: '[' is there where a value is expected"},
      {"a: [", "line 1, column 5: the text ends where a value is expected"},
      {"a [ 1 ]", "line 1, column 5: '1' is there where ':' or '{' is expected"},
      {"a: \"b", "line 1, column 4: a text has no end on its line"},
      {"a: \"b\n\"", "line 1, column 4: a text has no end on its line"},
      {"a: \"\\", "line 1, column 4: a text has an unknown escape"},
      {"a: \"\\q\"", "line 1, column 4: a text has an unknown escape"},
      {"a: \"\\u12\"", "line 1, column 4: a text has an unknown escape"},
      {"a: 1x", "line 1, column 4: a number is followed by other characters"},
      {"a: 1.2.3", "line 1, column 4: a number is followed by other characters"},
      {"a: - \"b\"", "line 1, column 6: '\"b\"' is there where a number is expected"},
      {"1: 2", "line 1, column 1: '1' is there where the name of a field is expected"},
      {"a: 1 é: 2", "line 1, column 6: 'é' is there where the name of a field is expected"},
      {"name: \"a\"\nname: \"b\"", "line 2, column 1: name is set a second time"},
      {"dynamic_batching { } sequence_batching { }",
       "line 1, column 22: sequence_batching is set a second time, or with another scheduler"},
  };
  for (const auto& [text, error] : kCases) EXPECT_EQ(error_in(text), error) << text;
}

TEST(TextFormat, BoundsItsDepth) {
  for (const char* opening : {"a {", "a: [{ a: [{"}) {
    std::string text;
    for (int i = 0; i < 100000; ++i) text += opening;
    EXPECT_NE(error_in(text).find("values nest too deeply"), std::string::npos);
  }
}

}  // namespace
}  // namespace flux

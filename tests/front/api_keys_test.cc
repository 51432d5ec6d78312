#include "front/api_keys.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "support/error.h"

namespace flux::front {
namespace {

class ApiKeysTest : public testing::Test {
 protected:
  ApiKeys read(const std::string& text) {
    std::ofstream(file, std::ios::binary) << text;
    return ApiKeys(file);
  }
  void TearDown() override { std::filesystem::remove(file); }

  const std::filesystem::path file =
      std::filesystem::path(testing::TempDir()) / "flux_front_keys.txt";
};

TEST_F(ApiKeysTest, AreOneALine) {
  const ApiKeys keys = read("# comment\r\none\r\n\n  two\t\n");
  EXPECT_TRUE(keys.are_needed());
  EXPECT_TRUE(keys.has("one"));
  EXPECT_TRUE(keys.has("two"));
  for (const char* wrong : {"", "on", "onee", "One", "one ", "# comment", "three"}) {
    EXPECT_FALSE(keys.has(wrong)) << wrong;
  }
  EXPECT_FALSE(ApiKeys().are_needed());
}

TEST_F(ApiKeysTest, RefusesBadFiles) {
  EXPECT_THROW(read(""), Error);
  EXPECT_THROW(read("\n#\n"), Error);
  EXPECT_THROW(read("a b\n"), Error);
  EXPECT_THROW(read("\xc3\xa4\n"), Error);
  EXPECT_THROW(read(std::string(1 << 17, 'x')), Error);
  EXPECT_THROW(ApiKeys("/nothing/here"), Error);
}

TEST(ShownKey, IsOfEitherHeader) {
  EXPECT_EQ(shown_key("Bearer a", ""), "a");
  EXPECT_EQ(shown_key("bearer  a ", "b"), "a");
  EXPECT_EQ(shown_key("", "b"), "b");
  EXPECT_EQ(shown_key("Basic a", "b"), "b");
  EXPECT_EQ(shown_key("Bearer", ""), "");
  EXPECT_EQ(shown_key("", ""), "");
}

}  // namespace
}  // namespace flux::front

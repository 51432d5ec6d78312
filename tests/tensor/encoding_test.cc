// Numbers of E4M3.
#include "tensor/encoding.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace flux {
namespace {

float value_of(uint8_t number) {
  float value = 0;
  decode_blocks(Encoding::kF8E4M3, &number, 1, &value);
  return value;
}

TEST(EncodeE4M3, EveryNumberIsItself) {
  for (int i = 0; i < 256; ++i) {
    const auto number = static_cast<uint8_t>(i);
    if ((number & 0x7f) == 0x7f) {
      EXPECT_EQ(encode_e4m3(std::numeric_limits<float>::quiet_NaN()) & 0x7f, 0x7f);
    } else {
      EXPECT_EQ(encode_e4m3(value_of(number)), number) << i;
    }
  }
}

TEST(EncodeE4M3, TheNearestNumberAndOfTwoTheEvenOne) {
  for (int i = 0; i < 0x7e; ++i) {
    const float low = value_of(static_cast<uint8_t>(i));
    const float high = value_of(static_cast<uint8_t>(i + 1));
    const float middle = (low + high) / 2;
    EXPECT_EQ(encode_e4m3(middle), i % 2 == 0 ? i : i + 1) << middle;
    EXPECT_EQ(encode_e4m3(std::nextafter(middle, low)), i) << middle;
    EXPECT_EQ(encode_e4m3(std::nextafter(middle, high)), i + 1) << middle;
    EXPECT_EQ(encode_e4m3(-std::nextafter(middle, high)), 0x80 | (i + 1)) << middle;
  }
}

TEST(EncodeE4M3, NothingIsLargerThanTheLargest) {
  for (const float large : {448.0f, 449.0f, 1e30f, std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(encode_e4m3(large), 0x7e) << large;
    EXPECT_EQ(encode_e4m3(-large), 0xfe) << large;
  }
}

}  // namespace
}  // namespace flux

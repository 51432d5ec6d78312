#include "front/events.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "front/api_error.h"

namespace flux::front {
namespace {

using nlohmann::json;

/// The steps after which a client that wants `wanted` previews of `steps` gets one.
std::vector<int> taken(int wanted, int steps, bool are_known) {
  PreviewChoice choice(wanted);
  const int every = choice.every(are_known ? steps : 0);
  std::vector<int> found;
  for (int step = 1; step < steps; ++step) {
    if (every > 0 && step % every == 0 && choice.takes(step, steps)) found.push_back(step);
  }
  return found;
}

TEST(PreviewChoice, SpacesPreviewsEvenly) {
  for (const bool are_known : {false, true}) {
    EXPECT_EQ(taken(0, 28, are_known), std::vector<int>{});
    EXPECT_EQ(taken(1, 28, are_known), std::vector<int>{14});
    EXPECT_EQ(taken(3, 28, are_known), (std::vector<int>{7, 14, 21}));
    EXPECT_EQ(taken(3, 4, are_known), (std::vector<int>{1, 2, 3}));
    EXPECT_EQ(taken(3, 2, are_known), std::vector<int>{1});
    EXPECT_EQ(taken(3, 1, are_known), std::vector<int>{});
  }
  EXPECT_EQ(taken(3, 10, false), (std::vector<int>{3, 5, 8}));
}

TEST(PreviewChoice, AsksForAsManyAsItTakesAtMost) {
  EXPECT_EQ(PreviewChoice(0).every(28), 0);
  EXPECT_EQ(PreviewChoice(3).every(28), 7);
  EXPECT_EQ(PreviewChoice(3).every(0), 1);
  for (int steps = 1; steps < 100; ++steps) {
    for (int wanted = 1; wanted <= 3; ++wanted) {
      const size_t expected = static_cast<size_t>(std::min(wanted, steps - 1));
      EXPECT_EQ(taken(wanted, steps, true).size(), expected) << wanted << " of " << steps;
    }
  }
}

TEST(Events, AreOneLineOfData) {
  const ImageWords words{1700000000, "32x16", "auto", "png", 1};
  const std::string event = completed_event(words, "file\n", 0, 41);
  ASSERT_TRUE(event.starts_with("event: image_generation.completed\ndata: {"));
  ASSERT_TRUE(event.ends_with("}\n\n"));
  EXPECT_EQ(std::count(event.begin(), event.end(), '\n'), 3);
  const json data = json::parse(event.substr(event.find('{')));
  EXPECT_EQ(data["b64_json"], "ZmlsZQo=");
  EXPECT_EQ(data["seed"], 41);
  EXPECT_EQ(data["usage"]["output_tokens"], 2);
  EXPECT_FALSE(data.contains("image_index"));
}

TEST(Events, SeedsCountUp) {
  const ImageWords words{0, "auto", "auto", "png", 2};
  const json answer = json::parse(images_json(words, {"a", "b"}, 7));
  EXPECT_EQ(answer["data"][0]["seed"], 7);
  EXPECT_EQ(answer["data"][1]["seed"], 8);
  EXPECT_EQ(answer["usage"]["total_tokens"], 0);  // of a size that nobody knows
}

TEST(Events, ErrorsQuoteWhateverTheyAreAbout) {
  const json error = json::parse(error_json(ApiError(400, "\xff\n\"", "a\"b", "")))["error"];
  EXPECT_EQ(error["type"], "invalid_request_error");
  EXPECT_EQ(error["param"], "a\"b");
  EXPECT_TRUE(error["code"].is_null());
  EXPECT_EQ(json::parse(error_json(ApiError(503, "x")))["error"]["type"], "server_error");
}

}  // namespace
}  // namespace flux::front

#include "image/resize.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "image/image_golden.h"
#include "support/error.h"

namespace flux {
namespace {

TEST(ResizeLanczos, GivesThePixelsOfPillowWithAnyThreads) {
  const auto file = testing::open_image_golden("resized.safetensors");
  std::ifstream index(testing::image_golden_folder() / "resized.json");
  const auto cases = nlohmann::json::parse(index);
  EXPECT_GT(cases.size(), 40u);
  for (const auto& row : cases) {
    const auto name = row.at("name").get<std::string>();
    SCOPED_TRACE(name);
    std::optional<ImageBox> box;
    if (const auto& part = row.at("box"); !part.is_null())
      box = {part[0], part[1], part[2], part[3]};
    for (const int threads : {1, 3}) {
      const Tensor found = resize_lanczos(testing::tensor(*file, name + "/source"),
                                          row.at("height"), row.at("width"), threads, box);
      testing::expect_equal(found, testing::tensor(*file, name + "/result"));
    }
  }
}

TEST(ResizeLanczos, RefusesSizesAndParts) {
  const Tensor image = Tensor::allocate({4, 5, 3}, DType::kU8);
  EXPECT_THROW(resize_lanczos(image, 0, 4, 1), Error);
  EXPECT_THROW(resize_lanczos(image, 4, -1, 1), Error);
  EXPECT_THROW(resize_lanczos(image, 4, 4, 1, ImageBox{0, 0, 5.5, 4}), Error);
  EXPECT_THROW(resize_lanczos(image, 4, 4, 1, ImageBox{-1, 0, 5, 4}), Error);
  EXPECT_THROW(resize_lanczos(image, 4, 4, 1, ImageBox{3, 0, 2, 4}), Error);
  EXPECT_THROW(resize_lanczos(image, 4, 4, 1, ImageBox{0, 0, NAN, 4}), Error);
  EXPECT_THROW(resize_lanczos(Tensor::allocate({4, 5, 4}, DType::kU8), 4, 4, 1), Error);
}

}  // namespace
}  // namespace flux

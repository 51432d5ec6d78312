#include "pipeline/image_processor.h"

#include <gtest/gtest.h>

#include "image/image_golden.h"
#include "image/resize.h"
#include "support/error.h"

namespace flux {
namespace {

class ImageProcessor : public ::testing::Test {
 protected:
  ConstTensor golden(const std::string& name) const { return testing::tensor(*file_, name); }

  std::unique_ptr<const SafetensorsFile> file_ =
      testing::open_image_golden("processed.safetensors");
};

TEST_F(ImageProcessor, PreparesImagesAndMasksAsDiffusers) {
  for (const std::string name : {"smaller", "larger", "same"}) {
    SCOPED_TRACE(name);
    const ConstTensor image = golden(name + "/image_processed");
    const int64_t height = image.size(1);
    const int64_t width = image.size(2);
    testing::expect_equal(preprocess_image(golden(name + "/image"), height, width, 2), image);
    for (const std::string kind : {"/mask", "/coloured"}) {
      const Tensor mask = preprocess_mask(golden(name + kind), height, width, 2);
      testing::expect_equal(mask, golden(name + kind + "_processed"));
      testing::expect_equal(resize_nearest(mask, height / 8, width / 8),
                            golden(name + kind + "_latent"));
    }
  }
}

TEST_F(ImageProcessor, CutsMasksAtTheMiddle) {
  const Tensor mask = preprocess_mask(golden("all/mask"), 16, 16, 1);
  testing::expect_equal(mask, golden("all/mask_processed"));
  EXPECT_EQ(mask.data<float>()[127], 0.0f);
  EXPECT_EQ(mask.data<float>()[128], 1.0f);
}

TEST_F(ImageProcessor, TakesTheNearestValueAsTorch) {
  const Tensor plane = Tensor::allocate({1, 35, 50}, DType::kF32);
  for (int64_t i = 0; i < plane.numel(); ++i) plane.data<float>()[i] = static_cast<float>(i);
  for (const auto& [height, width] : {std::pair(7, 13), std::pair(35, 50), std::pair(70, 100),
                                      std::pair(71, 33), std::pair(1, 1)}) {
    const std::string name = "nearest/" + std::to_string(height) + "x" + std::to_string(width);
    testing::expect_equal(resize_nearest(plane, height, width), golden(name));
  }
}

TEST_F(ImageProcessor, RefusesWhatIsNoImage) {
  const Tensor grey = Tensor::allocate({4, 4}, DType::kU8);
  EXPECT_THROW(preprocess_image(grey, 16, 16, 1), Error);
  EXPECT_THROW(preprocess_mask(grey, 0, 16, 1), Error);
}

}  // namespace
}  // namespace flux

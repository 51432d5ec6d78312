// Each instance of a served transformer has a cache of its own; the model is shared.
#include "models/flux1/conditioning_cache.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <thread>

#include "ops/registry.h"
#include "pipeline/checkpoint.h"

namespace flux {
namespace {

/// Values of either sign that differ from image to image.
Tensor waves(const Shape& shape, int image) {
  const Tensor tensor = Tensor::allocate(shape, DType::kF32);
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    tensor.data<float>()[i] = std::sin(static_cast<float>(i + 100 * image));
  }
  return tensor;
}

/// A row for the transformer, without its clock.
TransformerInput row_of(const FluxTransformerConfig& config, int image) {
  constexpr int64_t kImageTokens = 4;
  constexpr int64_t kTextTokens = 3;
  TransformerInput row;
  row.images = {{waves({kImageTokens, config.in_channels}, image), waves({kImageTokens, 3}, 0),
                 Tensor::allocate({kImageTokens, config.out_channels}, DType::kF32)}};
  if (config.guidance_embeds) row.guidance = 3.5F;
  row.pooled_projections = waves({config.pooled_projection_dim}, image);
  row.encoder_hidden_states = waves({kTextTokens, config.joint_attention_dim}, image);
  row.txt_ids = waves({kTextTokens, 3}, 0);
  return row;
}

class ConditioningCacheTest : public ::testing::Test {
 protected:
  /// The noise of all steps of two images whose steps alternate, as an instance computes them: with
  /// a cache, or with the model alone.
  std::string run_instance(ConditioningCache* cache) const {
    Context ctx(backend_for(Device{}), 2);
    const auto timesteps =
        std::make_shared<const std::vector<float>>(std::initializer_list<float>{1, 0.75F, 0.5F});
    std::string noise;
    for (size_t step = 0; step < timesteps->size(); ++step) {
      for (const int image : {1, 2}) {
        TransformerInput row = row_of(checkpoint->config().transformer, image);
        row.clock = {timesteps, step};
        if (cache != nullptr) cache->share(ctx, std::span(&row, 1));
        EXPECT_EQ(row.state != nullptr, cache != nullptr);
        model->forward(ctx, std::span(&row, 1));
        const Tensor& predicted = row.images[0].noise_pred;
        noise.append(predicted.data<char>(), static_cast<size_t>(predicted.bytes()));
      }
    }
    return noise;
  }

  std::shared_ptr<const Checkpoint> checkpoint =
      Checkpoint::open(FLUX_TEST_DATA "/checkpoints/tiny-dev");
  Context loading{backend_for(Device{}), 1};
  std::unique_ptr<const FluxTransformer> model = std::make_unique<FluxTransformer>(
      Loader(loading, checkpoint->weights(Component::kTransformer), {DType::kF32}),
      checkpoint->config().transformer);
};

TEST_F(ConditioningCacheTest, ChangesNoBitOfAStep) {
  ConditioningCache cache(*model, 4);
  EXPECT_EQ(run_instance(&cache), run_instance(nullptr));
}

TEST_F(ConditioningCacheTest, OfTwoInstancesAtOnceShareNothing) {
  ConditioningCache alone(*model, 4);
  const std::string expected = run_instance(&alone);
  std::string found[2];
  std::vector<std::thread> instances;
  for (std::string& noise : found) {
    instances.emplace_back([&] {
      ConditioningCache own(*model, 4);
      noise = run_instance(&own);
    });
  }
  for (std::thread& instance : instances) instance.join();
  EXPECT_EQ(found[0], expected);
  EXPECT_EQ(found[1], expected);
}

}  // namespace
}  // namespace flux

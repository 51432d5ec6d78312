// Previews beside the steps: what the decoder is asked, what comes back, and how they end.
#include "triton/previews.h"

#include <optional>

#include "fake_server.h"
#include "support/error.h"

namespace flux::triton {
namespace {

/// A latent is a pixel, and has four channels.
class PreviewsTest : public FakeServerTest {
 protected:
  PreviewsTest() {
    settings.server = &server;
    ImageParams row;
    row.height = 4;
    row.width = 6;
    row.num_images_per_prompt = 2;
    asked.rows = {row};
    decode_with([](NestedRequest& call) { answer(call); });
  }

  /// Answers as a decoder does, in grey.
  static void answer(NestedRequest& call) {
    const std::vector<int64_t>& latents = call.inputs.at("latents").shape;
    const auto pixels = static_cast<size_t>(3 * latents[2] * latents[3]);
    call.answer({{.name = "image",
                  .type = DataType::kFp32,
                  .shape = {1, 3, latents[2], latents[3]},
                  .bytes = std::string(pixels * sizeof(float), '\0')}});
    call.release();
  }

  void decode_with(std::function<void(NestedRequest&)> decoder) {
    server.models["vae_decoder"] = [this, decoder = std::move(decoder)](NestedRequest& call) {
      shapes.push_back(call.inputs.at("latents").shape);
      decoder(call);
    };
  }

  /// The predicted latents of both images: 6 tokens.
  static std::vector<ConstTensor> predicted() {
    const Tensor latents = Tensor::allocate({6, 16}, DType::kF32);
    std::fill_n(latents.data<float>(), latents.numel(), 1.0F);
    return {latents, latents};
  }

  Previews::Done keep() {
    return [this](Context&, const std::vector<std::string>& files) { made = files; };
  }

  ModelSettings settings;
  FluxConfig config;
  BlsRequest asked;
  BackendRequest sent;
  Request request{&sent};
  std::vector<std::vector<int64_t>> shapes;  // that the decoder was asked for
  std::optional<std::vector<std::string>> made;

  void TearDown() override {
    Instance instance;
    request.send_error(&instance, Error(ErrorCode::kCancelled, "the end of the test"), 0);
  }
};

TEST_F(PreviewsTest, AreAFileForEachImage) {
  asked.previews.size = 16;
  Previews previews(settings, config, request, asked);
  EXPECT_TRUE(previews.are_made());
  previews.wait();  // for nothing
  for (int step = 0; step < 2; ++step) {
    previews.begin(predicted(), nullptr, keep());
    previews.wait();
    ASSERT_TRUE(made.has_value());
    EXPECT_EQ(made->size(), 2U);
    for (const std::string& file : *made) EXPECT_TRUE(file.starts_with("\xff\xd8"));
    made.reset();
  }
  EXPECT_EQ(shapes, std::vector(4, std::vector<int64_t>{1, 4, 4, 6}));
}

TEST_F(PreviewsTest, AreReducedAndTexts) {
  asked.previews.size = 3;
  asked.format.base64 = true;
  Previews previews(settings, config, request, asked);
  previews.begin(predicted(), nullptr, keep());
  previews.wait();
  EXPECT_EQ(shapes, std::vector(2, std::vector<int64_t>{1, 4, 2, 3}));
  EXPECT_TRUE(made->front().starts_with("/9j/"));  // the base64 of a JPEG file's first bytes
}

TEST_F(PreviewsTest, StopWhenTheirRequestEnds) {
  decode_with([](NestedRequest& call) {
    call.wait_for_cancellation();
    call.answer_error(ServerErrorCode::kCancelled, "");
    call.release();
  });
  {
    Previews previews(settings, config, request, asked);
    previews.begin(predicted(), nullptr, keep());
    EXPECT_FALSE(previews.are_made());
  }
  EXPECT_FALSE(made.has_value());
  EXPECT_LE(shapes.size(), 1U);  // the second image was never asked for
}

TEST_F(PreviewsTest, StopWhenTheClientLeaves) {
  decode_with([](NestedRequest& call) {
    call.wait_for_cancellation();
    call.answer_error(ServerErrorCode::kCancelled, "");
    call.release();
  });
  Previews previews(settings, config, request, asked);
  previews.begin(predicted(), nullptr, keep());
  sent.cancelled = true;
  EXPECT_THROW(previews.wait(), Error);
  EXPECT_FALSE(made.has_value());
  previews.wait();  // the failure was told
}

TEST_F(PreviewsTest, ThatFailSayWhy) {
  decode_with([](NestedRequest& call) {
    call.answer_error(ServerErrorCode::kUnavailable, "out of memory");
    call.release();
  });
  Previews previews(settings, config, request, asked);
  previews.begin(predicted(), nullptr, keep());
  try {
    previews.wait();
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
    EXPECT_NE(std::string(error.what()).find("out of memory"), std::string::npos);
  }
  decode_with([](NestedRequest& call) { answer(call); });
  previews.begin(predicted(), nullptr, [](Context&, const std::vector<std::string>&) {
    fail(ErrorCode::kUnavailable, "cannot be sent");
  });
  EXPECT_THROW(previews.wait(), Error);
}

}  // namespace
}  // namespace flux::triton

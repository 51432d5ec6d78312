#include "pipeline/request.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "support/error.h"

namespace flux {
namespace {

FluxConfig make_config(bool guided) {
  FluxConfig config;
  config.transformer.guidance_embeds = guided;
  config.vae.block_out_channels = {8, 8, 8, 8};  // factor 8
  return config;
}

ImageParams validate_with(const std::function<void(Request&)>& change, bool guided = true) {
  const FluxConfig config = make_config(guided);
  Request request;
  request.prompt = "a cat";
  change(request);
  return validate(request, config, limits_for(config));
}

std::string refusal(const std::function<void(Request&)>& change) {
  try {
    validate_with(change);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
    return e.what();
  }
  return "accepted";
}

TEST(Request, DefaultsAreThoseOfTheModelsKind) {
  const ImageParams dev = validate_with([](Request&) {}, true);
  EXPECT_EQ(dev.num_inference_steps, 28);
  EXPECT_EQ(dev.max_sequence_length, 512);
  EXPECT_EQ(dev.height, 1024);
  EXPECT_EQ(dev.width, 1024);
  EXPECT_EQ(dev.prompt_2, "a cat");
  EXPECT_FLOAT_EQ(dev.guidance_scale, 3.5f);
  const ImageParams schnell = validate_with([](Request&) {}, false);
  EXPECT_EQ(schnell.num_inference_steps, 4);
  EXPECT_EQ(schnell.max_sequence_length, 256);
}

TEST(Request, SeedsOfAllImagesFit) {
  constexpr int64_t kLargest = std::numeric_limits<int64_t>::max();
  const auto with = [](int64_t seed, int64_t images) {
    return [=](Request& request) {
      request.seed = seed;
      request.num_images_per_prompt = images;
    };
  };
  EXPECT_EQ(refusal(with(kLargest, 1)), "accepted");
  EXPECT_EQ(refusal(with(kLargest - 1, 2)), "accepted");
  EXPECT_EQ(refusal(with(kLargest, 2)),
            "seed is 9223372036854775807: too large for 2 images, which count up from it");
}

TEST(Request, LimitsOfADeploymentHold) {
  const FluxConfig config = make_config(true);
  RequestLimits limits = limits_for(config);
  limits.max_steps = 30;
  limits.max_images_per_prompt = 2;
  limits.max_pixels_per_side = 1024;
  Request request;
  request.prompt = "a cat";
  request.num_inference_steps = 30;
  request.num_images_per_prompt = 2;
  EXPECT_EQ(validate(request, config, limits).num_inference_steps, 30);
  const auto refused = [&](const Request& changed) -> std::string {
    try {
      validate(changed, config, limits);
      return "accepted";
    } catch (const Error& e) {
      return e.what();
    }
  };
  Request many = request;
  many.num_inference_steps = 31;
  EXPECT_EQ(refused(many), "num_inference_steps is 31: must be from 1 to 30");
  many = request;
  many.num_images_per_prompt = 3;
  EXPECT_EQ(refused(many), "num_images_per_prompt is 3: must be from 1 to 2");
  many = request;
  many.width = 1040;
  EXPECT_EQ(refused(many), "width is 1040: must be a multiple of 16 from 16 to 1024");
}

TEST(Request, NegativePromptCountsOnlyWithTrueCfg) {
  const auto with_scale = [](double scale) {
    return validate_with([scale](Request& r) {
      r.negative_prompt = "";
      r.true_cfg_scale = scale;
    });
  };
  EXPECT_FALSE(with_scale(1.0).negative_prompt.has_value());
  EXPECT_EQ(with_scale(1.5).negative_prompt, "");
}

TEST(Request, WhatHasNoEffectHasItsDefault) {
  const auto scaled = [](Request& r) { r.true_cfg_scale = 2.5; };
  EXPECT_FLOAT_EQ(validate_with(scaled).true_cfg_scale, 1.0f);
  const auto guided = [](Request& r) { r.guidance_scale = 5; };
  EXPECT_FLOAT_EQ(validate_with(guided, true).guidance_scale, 5.0f);
  EXPECT_FLOAT_EQ(validate_with(guided, false).guidance_scale, 3.5f);
}

TEST(Request, RandomSeedsDiffer) {
  const auto seed = [] { return validate_with([](Request&) {}).seed; };
  EXPECT_NE(seed(), seed());
}

struct Refused {
  const char* name;
  std::function<void(Request&)> change;
  const char* message;
};

class RequestRefuses : public ::testing::TestWithParam<Refused> {};

TEST_P(RequestRefuses, NamesInputValueAndRange) {
  EXPECT_EQ(refusal(GetParam().change), GetParam().message);
}

/// An image, or a mask of one channel, whose pixels are all 0.
InputImage blank(int64_t height, int64_t width, int64_t channels = 3) {
  const auto size = static_cast<size_t>(height * width * channels);
  return {height, width, channels, std::make_shared<const std::vector<uint8_t>>(size)};
}

TEST(Request, AnImageHasAStrength) {
  const ImageParams plain = validate_with([](Request&) {});
  EXPECT_FALSE(plain.strength);
  EXPECT_EQ(plain.denoising_steps(), 28);
  EXPECT_FALSE(to_request(plain).strength);
  const ImageParams image = validate_with([](Request& r) { r.image = blank(5, 7); });
  EXPECT_EQ(image.strength, 0.6);
  EXPECT_EQ(image.denoising_steps(), 17);
  const Request again = to_request(image);
  EXPECT_EQ(again.strength, 0.6);
  EXPECT_EQ(again.image.pixels, image.image.pixels);
  EXPECT_EQ(validate_with([](Request& r) {
              r.image = blank(5, 7);
              r.mask = blank(1, 9, 1);
              r.strength = 1;
            }).denoising_steps(),
            28);
}

const double kNan = std::numeric_limits<double>::quiet_NaN();
const double kInfinity = std::numeric_limits<double>::infinity();

INSTANTIATE_TEST_SUITE_P(
    Values, RequestRefuses,
    ::testing::Values(
        Refused{"blank", [](auto& r) { r.prompt = " \t\n"; },
                "prompt is blank: say what to generate"},
        Refused{"empty", [](auto& r) { r.prompt = ""; }, "prompt is blank: say what to generate"},
        Refused{"missing", [](auto& r) { r.prompt.reset(); },
                "prompt is missing: say what to generate"},
        Refused{"nul", [](auto& r) { r.prompt = std::string("a\0b", 3); },
                "prompt holds a NUL character: not allowed"},
        Refused{"utf8", [](auto& r) { r.prompt = "ab\xff"; },
                "prompt is not valid UTF-8: byte 2 is 0xff"},
        Refused{"surrogate", [](auto& r) { r.prompt_2 = "\xed\xa0\x80"; },
                "prompt_2 is not valid UTF-8: byte 0 is 0xed"},
        Refused{"overlong", [](auto& r) { r.negative_prompt = "\xc0\xaf"; },
                "negative_prompt is not valid UTF-8: byte 0 is 0xc0"},
        Refused{"cut", [](auto& r) { r.prompt = "a\xe2\x82"; },
                "prompt is not valid UTF-8: byte 1 is 0xe2"},
        Refused{"long", [](auto& r) { r.prompt = std::string(65537, 'a'); },
                "prompt has 65537 bytes: at most 65536 are allowed"},
        Refused{"steps0", [](auto& r) { r.num_inference_steps = 0; },
                "num_inference_steps is 0: must be from 1 to 1000"},
        Refused{"steps", [](auto& r) { r.num_inference_steps = 1001; },
                "num_inference_steps is 1001: must be from 1 to 1000"},
        Refused{"guidance", [](auto& r) { r.guidance_scale = 100.5; },
                "guidance_scale is 100.5: must be a number from 0 to 100"},
        Refused{"guidance_nan", [](auto& r) { r.guidance_scale = kNan; },
                "guidance_scale is nan: must be a number from 0 to 100"},
        Refused{"cfg", [](auto& r) { r.true_cfg_scale = 0.5; },
                "true_cfg_scale is 0.5: must be a number from 1 to 1000000"},
        Refused{"cfg_inf", [](auto& r) { r.true_cfg_scale = kInfinity; },
                "true_cfg_scale is inf: must be a number from 1 to 1000000"},
        Refused{"height", [](auto& r) { r.height = 100; },
                "height is 100: must be a multiple of 16 from 16 to 2048"},
        Refused{"height0", [](auto& r) { r.height = 0; },
                "height is 0: must be a multiple of 16 from 16 to 2048"},
        Refused{"width", [](auto& r) { r.width = 2064; },
                "width is 2064: must be a multiple of 16 from 16 to 2048"},
        Refused{"negative_width", [](auto& r) { r.width = -16; },
                "width is -16: must be a multiple of 16 from 16 to 2048"},
        Refused{"mask", [](auto& r) { r.mask = blank(1, 1); },
                "mask is given without image: give the image that it is of, too"},
        Refused{"strength_alone", [](auto& r) { r.strength = 0.5; },
                "strength is 0.5 without image: give the image to start from, too"},
        Refused{"strength0",
                [](auto& r) {
                  r.image = blank(1, 1);
                  r.strength = 0;
                },
                "strength is 0: must be a number above 0, at most 1"},
        Refused{"strength",
                [](auto& r) {
                  r.image = blank(1, 1);
                  r.strength = 1.01;
                },
                "strength is 1.01: must be a number above 0, at most 1"},
        Refused{"strength_nan",
                [](auto& r) {
                  r.image = blank(1, 1);
                  r.strength = kNan;
                },
                "strength is nan: must be a number above 0, at most 1"},
        Refused{"strength_least",
                [](auto& r) {
                  r.image = blank(1, 1);
                  r.strength = 1e-20;
                },
                "strength is 1e-20: too small for 28 steps, none is left"},
        Refused{"grey_image", [](auto& r) { r.image = blank(1, 1, 1); },
                "image has 1 channels: must have 3 (RGB)"},
        Refused{"mask_channels",
                [](auto& r) {
                  r.image = blank(1, 1);
                  r.mask = blank(1, 1, 4);
                },
                "mask has 4 channels: must have 3 (RGB) or 1 (grey)"},
        Refused{"image_side", [](auto& r) { r.image = blank(0, 1); },
                "image is 1x0: sides must be from 1 to 32768 pixels"},
        Refused{"image_bytes",
                [](auto& r) {
                  r.image = blank(2, 3);
                  r.image.width = 4;
                },
                "image has 18 bytes of pixels: 4x2 with 3 channels takes 24"},
        Refused{"seed", [](auto& r) { r.seed = -1; }, "seed is -1: must be 0 or more"},
        Refused{"images", [](auto& r) { r.num_images_per_prompt = 17; },
                "num_images_per_prompt is 17: must be from 1 to 16"},
        Refused{"length", [](auto& r) { r.max_sequence_length = 513; },
                "max_sequence_length is 513: must be from 1 to 512"}),
    [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace flux

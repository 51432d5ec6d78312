#include "pipeline/request.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string_view>

#include "support/error.h"
#include "support/utf8.h"
#include "tokenizer/token_ids.h"

namespace flux {
namespace {

constexpr int64_t kDefaultLatentSide = 128;  // FluxPipeline.default_sample_size

void check_text(std::string_view name, const std::string& text, bool may_be_blank) {
  check(text.size() <= kMaxPromptBytes, ErrorCode::kInvalidArgument,
        "{} has {} bytes: at most {} are allowed", name, text.size(), kMaxPromptBytes);
  check(text.find('\0') == text.npos, ErrorCode::kInvalidArgument,
        "{} holds a NUL character: not allowed", name);
  const auto invalid = find_invalid_utf8(text);
  check(!invalid, ErrorCode::kInvalidArgument, "{} is not valid UTF-8: byte {} is 0x{:02x}", name,
        invalid.value_or(0), invalid ? static_cast<unsigned char>(text[*invalid]) : 0);
  const bool blank = std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
  });
  check(may_be_blank || !blank, ErrorCode::kInvalidArgument, "{} is blank: say what to draw", name);
}

int64_t check_range(std::string_view name, int64_t value, int64_t low, int64_t high) {
  check(value >= low && value <= high, ErrorCode::kInvalidArgument,
        "{} is {}: must be from {} to {}", name, value, low, high);
  return value;
}

float check_number(std::string_view name, double value, double low, double high) {
  check(std::isfinite(value) && value >= low && value <= high, ErrorCode::kInvalidArgument,
        "{} is {}: must be a number from {} to {}", name, value, low, high);
  return static_cast<float>(value);
}

int64_t check_side(std::string_view name, int64_t value, int64_t multiple, int64_t high) {
  check(value >= multiple && value <= high && value % multiple == 0, ErrorCode::kInvalidArgument,
        "{} is {}: must be a multiple of {} from {} to {}", name, value, multiple, multiple, high);
  return value;
}

}  // namespace

int64_t default_sequence_length(const FluxConfig& config) {
  return config.transformer.guidance_embeds ? 512 : 256;
}

int64_t random_seed() {
  std::random_device device;
  // 32 bits: all that the noise generator uses, and short enough to be typed again.
  return static_cast<int64_t>(device());
}

RequestLimits limits_for(const FluxConfig& config) {
  RequestLimits limits;
  const int64_t side = kDefaultLatentSide * config.vae.scale_factor();
  limits.default_height = side;
  limits.default_width = side;
  return limits;
}

ImageParams validate(const ImageRequest& request, const FluxConfig& config,
                     const RequestLimits& limits) {
  const bool guided = config.transformer.guidance_embeds;
  ImageParams params;
  check_text("prompt", request.prompt, false);
  params.prompt = request.prompt;
  if (request.prompt_2) check_text("prompt_2", *request.prompt_2, false);
  params.prompt_2 = request.prompt_2.value_or(request.prompt);
  params.true_cfg_scale =
      check_number("true_cfg_scale", request.true_cfg_scale, 1, std::numeric_limits<float>::max());
  if (request.negative_prompt) {
    check_text("negative_prompt", *request.negative_prompt, true);
    if (params.true_cfg_scale > 1) params.negative_prompt = request.negative_prompt;
  }
  params.num_inference_steps = static_cast<int>(check_range(
      "num_inference_steps",
      request.num_inference_steps.value_or(std::min<int64_t>(guided ? 28 : 4, limits.max_steps)), 1,
      limits.max_steps));
  params.guidance_scale = check_number("guidance_scale", request.guidance_scale, 0, 100);
  const int64_t multiple = config.size_multiple();
  params.height = check_side("height", request.height.value_or(limits.default_height), multiple,
                             limits.max_pixels_per_side);
  params.width = check_side("width", request.width.value_or(limits.default_width), multiple,
                            limits.max_pixels_per_side);
  params.num_images_per_prompt = static_cast<int>(check_range(
      "num_images_per_prompt", request.num_images_per_prompt, 1, limits.max_images_per_prompt));
  params.max_sequence_length = static_cast<int>(
      check_range("max_sequence_length",
                  request.max_sequence_length.value_or(default_sequence_length(config)), 1, 512));
  if (request.seed) {
    check(*request.seed >= 0, ErrorCode::kInvalidArgument, "seed is {}: must be 0 or more",
          *request.seed);
  }
  params.seed = request.seed ? *request.seed : random_seed();
  return params;
}

}  // namespace flux

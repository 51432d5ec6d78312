#include "pipeline/request.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <random>
#include <string_view>
#include <type_traits>
#include <utility>

#include "image/decode.h"
#include "pipeline/kontext.h"
#include "pipeline/request_fields.h"
#include "pipeline/schedule.h"
#include "support/error.h"
#include "support/json_file.h"
#include "support/log.h"
#include "support/utf8.h"
#include "tokenizer/token_ids.h"

namespace flux {
namespace {

constexpr int64_t kDefaultLatentSide = 128;  // FluxPipeline.default_sample_size

int64_t checked_integer(const RequestField& field, const std::optional<int64_t>& given,
                        const FluxConfig& config, const RequestLimits& limits) {
  const auto& kind = std::get<IntegerField>(field.kind);
  const int64_t value = given ? *given : default_of(kind, config, limits);
  const int64_t high = high_of(kind, limits);
  if (value >= kind.low && value <= high) return value;
  const bool open = high == std::numeric_limits<int64_t>::max();
  fail(ErrorCode::kInvalidArgument, "{} is {}: must be {}", field.name, value,
       open ? fmt::format("{} or more", kind.low) : fmt::format("from {} to {}", kind.low, high));
}

/// The default of a field that is a number.
double default_of(std::optional<double> Request::*member, const FluxConfig& config) {
  for (const RequestField& field : request_fields()) {
    const auto* number = std::get_if<NumberField>(&field.kind);
    if (number != nullptr && number->given == member) return default_of(*number, config);
  }
  fail(ErrorCode::kInternal, "the table of request fields lacks a number of Request");
}

/// Checks the fields of a request, and stores their values or defaults in `params`.
class FieldChecks {
 public:
  FieldChecks(const Request& request, const FluxConfig& config, const RequestLimits& limits)
      : request_(request), config_(config), limits_(limits) {}

  void store(const RequestField& field, const TextField& kind) {
    const std::optional<std::string>& text = request_.*kind.given;
    check(text || !kind.fallback.empty(), ErrorCode::kInvalidArgument,
          "{} is missing: say what to generate", field.name);
    if (!text) return;
    check_text(field.name, *text, kind.may_be_blank);
    std::visit([&](const auto member) { params.*member = *text; }, kind.checked);
  }

  void store(const RequestField& field, const IntegerField& kind) {
    const int64_t value = checked_integer(field, request_.*kind.given, config_, limits_);
    const auto assign = [&](auto& checked) {
      checked = static_cast<std::remove_reference_t<decltype(checked)>>(value);
    };
    std::visit([&](const auto member) { assign(params.*member); }, kind.checked);
  }

  void store(const RequestField& field, const SideField& kind) {
    const int64_t value = (request_.*kind.given).value_or(limits_.*kind.fallback);
    const int64_t multiple = config_.size_multiple();
    const int64_t high = limits_.max_pixels_per_side;
    check(value >= multiple && value <= high && value % multiple == 0, ErrorCode::kInvalidArgument,
          "{} is {}: must be a multiple of {} from {} to {}", field.name, value, multiple, multiple,
          high);
    params.*kind.checked = static_cast<int>(value);
  }

  void store(const RequestField& field, const NumberField& kind) {
    const double value = (request_.*kind.given).value_or(default_of(kind, config_));
    check(std::isfinite(value) && value >= kind.low && value <= kind.high,
          ErrorCode::kInvalidArgument, "{} is {}: must be a number from {} to {}", field.name,
          value, kind.low, kind.high);
    params.*kind.checked = static_cast<float>(value);
  }

  ImageParams params;

 private:
  const Request& request_;
  const FluxConfig& config_;
  const RequestLimits& limits_;
};

}  // namespace

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
  check(may_be_blank || !blank, ErrorCode::kInvalidArgument, "{} is blank: say what to generate",
        name);
}

int checked_sequence_length(const std::optional<int64_t>& given, const FluxConfig& config) {
  const RequestField& field = field_of(&Request::max_sequence_length);
  return static_cast<int>(checked_integer(field, given, config, limits_for(config)));
}

int checked_quality(const std::optional<int64_t>& given) {
  const RequestField& field = field_of(&Request::quality);
  return static_cast<int>(checked_integer(field, given, FluxConfig{}, RequestLimits{}));
}

int64_t random_seed() {
  std::random_device device;
  // 32 bits: the noise generator uses no more, and a user can type them again.
  return static_cast<int64_t>(device());
}

RequestLimits limits_for(const FluxConfig& config) {
  RequestLimits limits;
  const int64_t side = kDefaultLatentSide * config.vae.scale_factor();
  const ImageSize size = config.default_size.value_or(ImageSize{side, side});
  limits.default_height = size.height;
  limits.default_width = size.width;
  return limits;
}

std::vector<AdapterChoice> checked_adapters(const std::vector<AdapterFile>& given) {
  constexpr size_t kMost = 16;
  constexpr double kLargestScale = 100;
  check(given.size() <= kMost, ErrorCode::kInvalidArgument,
        "lora names {} adapters: at most {} are allowed", given.size(), kMost);
  std::vector<AdapterChoice> chosen;
  for (const AdapterFile& adapter : given) {
    check(std::isfinite(adapter.scale) && std::abs(adapter.scale) <= kLargestScale,
          ErrorCode::kInvalidArgument, "lora {} has the scale {}: must be a number from -{} to {}",
          quoted(nlohmann::json(std::filesystem::path(adapter.file).stem().string())),
          adapter.scale, kLargestScale, kLargestScale);
    chosen.push_back({adapter.file, static_cast<float>(adapter.scale)});
  }
  return chosen;
}

ConstTensor checked_pixels(std::string_view name, const InputImage& given, int64_t least_channels) {
  if (!given) return {};
  check(given.channels == 3 || given.channels == least_channels, ErrorCode::kInvalidArgument,
        "{} has {} channels: must have 3 (RGB){}", name, given.channels,
        least_channels == 1 ? " or 1 (grey)" : "");
  check_image_bounds(name, {given.height, given.width});
  const Shape shape = given.channels == 1 ? Shape{given.height, given.width}
                                          : Shape{given.height, given.width, given.channels};
  check(given.pixels->size() == static_cast<size_t>(shape.numel()), ErrorCode::kInvalidArgument,
        "{} has {} bytes of pixels: {}x{} with {} channels takes {}", name, given.pixels->size(),
        given.width, given.height, given.channels, shape.numel());
  return {given.pixels->data(), DType::kU8, shape};
}

void check_image_bounds(std::string_view name, const ImageSize& size) {
  const ImageBounds bounds;
  const int64_t longer = std::max(size.height, size.width);
  const int64_t shorter = std::min(size.height, size.width);
  check(shorter >= 1 && longer <= bounds.side, ErrorCode::kInvalidArgument,
        "{} is {}x{}: sides must be from 1 to {} pixels", name, size.width, size.height,
        bounds.side);
  check(size.height * size.width <= bounds.pixels, ErrorCode::kInvalidArgument,
        "{} is {}x{}: at most {} pixels are allowed", name, size.width, size.height, bounds.pixels);
  check(longer <= bounds.ratio * shorter, ErrorCode::kInvalidArgument,
        "{} is {}x{}: the longer side may be at most {} times the shorter one", name, size.width,
        size.height, bounds.ratio);
}

InputImage to_input_image(const ConstTensor& pixels) {
  const auto* values = pixels.data<uint8_t>();
  return {.height = pixels.size(0),
          .width = pixels.size(1),
          .channels = pixels.rank() == 2 ? 1 : pixels.size(2),
          .pixels = std::make_shared<const std::vector<uint8_t>>(values, values + pixels.numel())};
}

int ImageParams::denoising_steps() const {
  return num_inference_steps - (strength ? skipped_steps(num_inference_steps, *strength) : 0);
}

namespace {

/// Checks that an input is there, or not, as the kind wants it.
void check_use(const PipelineKindInfo& kind, std::string_view name, InputUse use, bool given) {
  check(given || use != InputUse::kRequired, ErrorCode::kInvalidArgument,
        "{} is missing: {} needs it", name, kind.class_name);
  check(!given || use != InputUse::kRefused, ErrorCode::kInvalidArgument,
        "{} is given: {} takes none", name, kind.class_name);
}

/// Checks which inputs are there, as the kind wants them.
void check_inputs(const Request& request, const PipelineKindInfo& kind, const ImageNames& names) {
  check_use(kind, names.image, kind.image, bool(request.image));
  check_use(kind, names.mask, kind.mask, bool(request.mask));
  check(kind.true_cfg || !request.negative_prompt, ErrorCode::kInvalidArgument,
        "negative_prompt is given: {} takes none", kind.class_name);
  check(kind.strength || !request.strength, ErrorCode::kInvalidArgument,
        "strength is {}: {} takes none", request.strength.value_or(0), kind.class_name);
  check(request.image || !request.mask, ErrorCode::kInvalidArgument,
        "{} is given without image: give the image that it is of, too", names.mask);
  check(request.image || !request.strength, ErrorCode::kInvalidArgument,
        "strength is {} without image: give the image to start from, too",
        request.strength.value_or(0));
}

/// Checks the image of a request and what goes with it, and stores them in `params`.
void check_image(const Request& request, const PipelineKindInfo& kind, const ImageNames& names,
                 ImageParams& params) {
  if (!request.image) return;
  checked_pixels(names.image, request.image, 3);
  checked_pixels(names.mask, request.mask, 1);
  params.image = request.image;
  params.mask = request.mask;
  if (!kind.strength) return;
  params.strength = request.strength.value_or(*kind.strength);
  check(*params.strength > 0 && *params.strength <= 1, ErrorCode::kInvalidArgument,
        "strength is {}: must be a number above 0, at most 1", *params.strength);
  check(params.denoising_steps() >= 1, ErrorCode::kInvalidArgument,
        "strength is {}: too small for {} steps, none is left", *params.strength,
        params.num_inference_steps);
}

/// FluxKontextPipeline takes the aspect of what is asked for, and as many pixels as its default
/// has.
void adjust_to_kontext(const FluxConfig& config, const RequestLimits& limits, ImageParams& params) {
  params.asked = ImageSize{params.height, params.width};
  if (params.image) {
    kontext_reference_size({params.image.height, params.image.width}, config.size_multiple());
  }
  const ImageSize size = kontext_size(*params.asked, {limits.default_height, limits.default_width},
                                      config.size_multiple());
  for (const int64_t side : {size.height, size.width}) {
    check(side >= config.size_multiple() && side <= limits.max_pixels_per_side,
          ErrorCode::kInvalidArgument,
          "{}x{} is too long: Kontext would draw {}x{} in that aspect, and sides are {} to {}",
          params.width, params.height, size.width, size.height, config.size_multiple(),
          limits.max_pixels_per_side);
  }
  if (size.height != params.height || size.width != params.width) {
    log_warning("{}x{} is drawn in place of {}x{}: Kontext takes the aspect alone", size.width,
                size.height, params.width, params.height);
  }
  params.height = static_cast<int>(size.height);
  params.width = static_cast<int>(size.width);
}

}  // namespace

ImageParams validate(const Request& request, const FluxConfig& config, const RequestLimits& limits,
                     const ImageNames& names) {
  check_inputs(request, info_of(config.kind), names);
  FieldChecks checks(request, config, limits);
  for (const RequestField& field : request_fields()) {
    std::visit([&](const auto& kind) { checks.store(field, kind); }, field.kind);
  }
  ImageParams params = std::move(checks.params);
  check(params.seed <= std::numeric_limits<int64_t>::max() - (params.num_images_per_prompt - 1),
        ErrorCode::kInvalidArgument, "seed is {}: too large for {} images, which count up from it",
        params.seed, params.num_images_per_prompt);
  if (!request.prompt_2) params.prompt_2 = params.prompt;
  if (params.true_cfg_scale <= 1 && params.negative_prompt) {
    log_warning("negative_prompt has no effect: true_cfg_scale is {}, and must be above 1",
                params.true_cfg_scale);
    params.negative_prompt.reset();
  }
  if (params.true_cfg_scale > 1 && !params.negative_prompt) {
    log_warning("true_cfg_scale {} has no effect: there is no negative_prompt",
                params.true_cfg_scale);
    params.true_cfg_scale = static_cast<float>(default_of(&Request::true_cfg_scale, config));
  }
  const double guidance = default_of(&Request::guidance_scale, config);
  if (!config.transformer.guidance_embeds && params.guidance_scale != guidance) {
    log_warning("guidance_scale {} has no effect: the model has no guidance embeddings",
                params.guidance_scale);
    params.guidance_scale = static_cast<float>(guidance);
  }
  params.adapters = checked_adapters(request.adapters);
  check_image(request, info_of(config.kind), names, params);
  if (config.kind == PipelineKind::kKontext) adjust_to_kontext(config, limits, params);
  return params;
}

Request to_request(const ImageParams& params) {
  Request request;
  const auto store = [&](const auto& kind) {
    if constexpr (requires { std::visit([](auto) {}, kind.checked); }) {
      std::visit([&](const auto member) { request.*kind.given = params.*member; }, kind.checked);
    } else {
      request.*kind.given = params.*kind.checked;
    }
  };
  for (const RequestField& field : request_fields()) std::visit(store, field.kind);
  for (const AdapterChoice& adapter : params.adapters) {
    request.adapters.push_back({adapter.file, adapter.scale});
  }
  request.image = params.image;
  request.mask = params.mask;
  request.strength = params.strength;
  if (params.asked) {
    request.height = params.asked->height;
    request.width = params.asked->width;
  }
  return request;
}

}  // namespace flux

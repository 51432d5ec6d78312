#include "pipeline/request.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string_view>
#include <type_traits>
#include <utility>

#include "pipeline/request_fields.h"
#include "support/error.h"
#include "support/log.h"
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
  check(may_be_blank || !blank, ErrorCode::kInvalidArgument, "{} is blank: say what to generate",
        name);
}

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
    const double value = (request_.*kind.given).value_or(kind.fallback);
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

ImageParams validate(const Request& request, const FluxConfig& config,
                     const RequestLimits& limits) {
  FieldChecks checks(request, config, limits);
  for (const RequestField& field : request_fields()) {
    std::visit([&](const auto& kind) { checks.store(field, kind); }, field.kind);
  }
  ImageParams params = std::move(checks.params);
  if (!request.prompt_2) params.prompt_2 = params.prompt;
  if (params.true_cfg_scale <= 1 && params.negative_prompt) {
    log_warning("negative_prompt has no effect: true_cfg_scale is {}, and must be above 1",
                params.true_cfg_scale);
    params.negative_prompt.reset();
  }
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
  return request;
}

}  // namespace flux

#include "pipeline/request_fields.h"

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "support/edit_distance.h"
#include "support/error.h"
#include "tokenizer/token_ids.h"

namespace flux {
namespace {

/// Far beyond any use. What it scales still has finite squares, by which it is normalized.
constexpr double kLargestScale = 1e6;

using Given = Request;
using Checked = ImageParams;

constexpr RequestField kFields[] = {
    {"prompt", "", "what to generate",
     TextField{.given = &Given::prompt,
               .checked = &Checked::prompt,
               .may_be_blank = false,
               .fallback = ""}},
    {"prompt_2", "", "text for T5, where it differs from that for CLIP",
     TextField{.given = &Given::prompt_2,
               .checked = &Checked::prompt_2,
               .may_be_blank = false,
               .fallback = "the prompt"}},
    {"negative_prompt", "", "what to avoid, used when the true CFG scale is above 1",
     TextField{.given = &Given::negative_prompt,
               .checked = &Checked::negative_prompt,
               .may_be_blank = true,
               .fallback = "none"}},
    {"true_cfg_scale", "", "weight against the negative prompt",
     NumberField{.given = &Given::true_cfg_scale,
                 .checked = &Checked::true_cfg_scale,
                 .low = 1,
                 .high = kLargestScale,
                 .fallback = 1}},
    {"num_inference_steps", "steps", "denoising steps",
     IntegerField{.given = &Given::num_inference_steps,
                  .checked = &Checked::num_inference_steps,
                  .low = 1,
                  .high = &RequestLimits::max_steps,
                  .fallback = IntegerDefault{28, 4, 50}}},
    {"guidance_scale", "guidance", "guidance scale",
     NumberField{.given = &Given::guidance_scale,
                 .checked = &Checked::guidance_scale,
                 .low = 0,
                 .high = 100,
                 .fallback = 3.5,
                 .fill = 30}},
    {"height", "", "pixels",
     SideField{.given = &Given::height,
               .checked = &Checked::height,
               .fallback = &RequestLimits::default_height}},
    {"width", "", "pixels",
     SideField{.given = &Given::width,
               .checked = &Checked::width,
               .fallback = &RequestLimits::default_width}},
    {"seed", "", "seed of image 0 (image k: seed + k)",
     IntegerField{.given = &Given::seed,
                  .checked = &Checked::seed,
                  .low = 0,
                  .high = std::numeric_limits<int64_t>::max(),
                  .fallback = std::nullopt}},
    {"num_images_per_prompt", "images", "images for each prompt",
     IntegerField{.given = &Given::num_images_per_prompt,
                  .checked = &Checked::num_images_per_prompt,
                  .low = 1,
                  .high = &RequestLimits::max_images_per_prompt,
                  .fallback = IntegerDefault{1, 1}}},
    {"max_sequence_length", "", "T5 tokens",
     IntegerField{.given = &Given::max_sequence_length,
                  .checked = &Checked::max_sequence_length,
                  .low = 1,
                  .high = kMaxSequenceLength,
                  .fallback = IntegerDefault{kMaxSequenceLength, 256}}},
    {"quality", "", "of JPEG and WebP files",
     IntegerField{.given = &Given::quality,
                  .checked = &Checked::quality,
                  .low = 1,
                  .high = 100,
                  .fallback = IntegerDefault{95, 95}}},
};

std::string in_words(const TextField& field) {
  return fmt::format("UTF-8, {}at most {} KiB", field.may_be_blank ? "" : "not blank, ",
                     kMaxPromptBytes / 1024);
}

std::string in_words(const IntegerField& field) {
  const int64_t high = high_of(field, RequestLimits{});
  if (high == std::numeric_limits<int64_t>::max()) return fmt::format("{} or more", field.low);
  return fmt::format("{} to {}", field.low, high);
}

std::string in_words(const SideField&) { return "a multiple of 16"; }

std::string in_words(const NumberField& field) {
  return fmt::format("{} to {}", field.low, field.high);
}

std::string fallback_in_words(const TextField& field) { return std::string(field.fallback); }

std::string fallback_in_words(const IntegerField& field) {
  if (!field.fallback) return "a random one, reported";
  const int64_t guided = field.fallback->guided;
  const int64_t unguided = field.fallback->unguided;
  if (guided == unguided) return std::to_string(guided);
  return fmt::format("{} with guidance embeddings, else {}", guided, unguided);
}

std::string fallback_in_words(const SideField&) { return "the checkpoint's, FLUX: 1024"; }

std::string fallback_in_words(const NumberField& field) {
  return fmt::format("{}", field.fallback);
}

std::string as_option(std::string_view name) {
  std::string option = fmt::format("--{}", name);
  std::replace(option.begin(), option.end(), '_', '-');
  return option;
}

}  // namespace

std::span<const RequestField> request_fields() { return kFields; }

const RequestField& field_of(std::optional<int64_t> Request::*member) {
  for (const RequestField& field : kFields) {
    const auto* integer = std::get_if<IntegerField>(&field.kind);
    const auto* side = std::get_if<SideField>(&field.kind);
    if (integer != nullptr && integer->given == member) return field;
    if (side != nullptr && side->given == member) return field;
  }
  fail(ErrorCode::kInternal, "the table of request fields lacks a member of Request");
}

int64_t high_of(const IntegerField& field, const RequestLimits& limits) {
  const auto* constant = std::get_if<int64_t>(&field.high);
  return constant != nullptr ? *constant : limits.*std::get<int64_t RequestLimits::*>(field.high);
}

int64_t default_of(const IntegerField& field, const FluxConfig& config,
                   const RequestLimits& limits) {
  if (!field.fallback) return random_seed();
  if (config.kind == PipelineKind::kFill && field.fallback->fill) return *field.fallback->fill;
  const bool guided = config.transformer.guidance_embeds;
  const int64_t value = guided ? field.fallback->guided : field.fallback->unguided;
  return std::min(value, high_of(field, limits));
}

double default_of(const NumberField& field, const FluxConfig& config) {
  return config.kind == PipelineKind::kFill ? field.fill.value_or(field.fallback) : field.fallback;
}

std::string_view alias_of(const RequestField& field) {
  return field.option.empty() ? field.name : field.option;
}

std::optional<std::string_view> near_name(std::string_view name) {
  constexpr size_t kLongestName = 64;  // no field's is as long
  if (name.size() > kLongestName) return std::nullopt;
  std::string plain(name);
  std::replace(plain.begin(), plain.end(), '-', '_');
  std::optional<std::string_view> near;
  size_t least = kLongestName;
  for (const RequestField& field : kFields) {
    for (const std::string_view known : {field.name, alias_of(field)}) {
      const size_t distance = edit_distance(plain, known);
      if (distance >= least || 3 * distance > std::min(plain.size(), known.size())) continue;
      least = distance;
      near = field.name;
    }
  }
  return near;
}

std::string option_of(const RequestField& field) { return as_option(alias_of(field)); }

std::string options_of(const RequestField& field) {
  return field.option.empty() ? option_of(field)
                              : fmt::format("{},{}", option_of(field), as_option(field.name));
}

std::string allowed_in_words(const RequestField& field) {
  return std::visit([](const auto& kind) { return in_words(kind); }, field.kind);
}

std::string default_in_words(const RequestField& field) {
  return std::visit([](const auto& kind) { return fallback_in_words(kind); }, field.kind);
}

}  // namespace flux

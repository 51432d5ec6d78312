#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "pipeline/request.h"

namespace flux {

/// A text: UTF-8 without NUL, of at most kMaxPromptBytes bytes.
struct TextField {
  std::optional<std::string> Request::*given;
  std::variant<std::string ImageParams::*, std::optional<std::string> ImageParams::*> checked;
  bool may_be_blank;
  std::string_view fallback;  // the default in words; empty: the text is required
};

/// A default that depends on the model's kind.
struct IntegerDefault {
  int64_t guided;  // with guidance embeddings
  int64_t unguided;
  std::optional<int64_t> fill = {};  // of FluxFillPipeline, where it has another
};

/// An integer. It has 32 bits on the wire where the checked value is an int, else 64.
struct IntegerField {
  std::optional<int64_t> Request::*given;
  std::variant<int ImageParams::*, int64_t ImageParams::*> checked;
  int64_t low;
  std::variant<int64_t, int64_t RequestLimits::*> high;
  std::optional<IntegerDefault> fallback;  // at most `high`; nothing: a random seed
};

/// A side of the image in pixels: a multiple of FluxConfig::size_multiple(), at most
/// RequestLimits::max_pixels_per_side.
struct SideField {
  std::optional<int64_t> Request::*given;
  int ImageParams::*checked;
  int64_t RequestLimits::*fallback;
};

/// A finite number.
struct NumberField {
  std::optional<double> Request::*given;
  float ImageParams::*checked;
  double low;
  double high;
  double fallback;
  std::optional<double> fill = {};  // the default of FluxFillPipeline, where it has another
};

/// One value that a user may give: in a request to a server, and as an option of a command.
struct RequestField {
  std::string_view name;    // the argument of FluxPipeline.__call__
  std::string_view option;  // of a command; empty: the name, with dashes
  std::string_view meaning;
  std::variant<TextField, IntegerField, SideField, NumberField> kind;
};

/// All fields. Checks, command line, server and configuration templates follow this table.
std::span<const RequestField> request_fields();

/// The field that fills a member of Request.
const RequestField& field_of(std::optional<int64_t> Request::*member);

/// The largest value that a deployment allows.
int64_t high_of(const IntegerField& field, const RequestLimits& limits);

/// The value of a silent request.
int64_t default_of(const IntegerField& field, const FluxConfig& config,
                   const RequestLimits& limits);

double default_of(const NumberField& field, const FluxConfig& config);

/// The word of the command line for a field where it has one of its own, as a request's name:
/// "steps" for num_inference_steps. Else the field's name.
std::string_view alias_of(const RequestField& field);

/// The name of the field that `name`, which is none's, may have been meant for: the nearest by
/// Levenshtein's distance from names and aliases. Nothing where none has most of its letters.
std::optional<std::string_view> near_name(std::string_view name);

/// The name of a field's option on the command line, as messages have it: "--steps".
std::string option_of(const RequestField& field);
/// All names of the option, separated by commas: "--steps,--num-inference-steps".
std::string options_of(const RequestField& field);

/// The values that are allowed, in words: "1 to 1000". Sides have the words of FLUX.
std::string allowed_in_words(const RequestField& field);

/// The default in words: "28 with guidance embeddings, else 4". Empty: the field is required.
std::string default_in_words(const RequestField& field);

}  // namespace flux

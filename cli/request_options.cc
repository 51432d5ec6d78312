#include "cli/request_options.h"

#include <charconv>
#include <filesystem>

#include "cli/common.h"
#include "flux/flux.h"
#include "pipeline/request_fields.h"
#include "support/error.h"

namespace flux::cli {
namespace {

/// `meaning` and the default of the field.
std::string help(const RequestField& field, const std::string& meaning) {
  const std::string fallback = default_in_words(field);
  return fallback.empty() ? meaning : fmt::format("{} [default: {}]", meaning, fallback);
}

std::string help(const RequestField& field) {
  return help(field, fmt::format("{}, {}", field.meaning, allowed_in_words(field)));
}

void add_text_option(CLI::App& command, const RequestField& field, const TextField& kind,
                     std::vector<std::string>& texts) {
  const bool required = kind.fallback.empty();
  const char* more = required ? "; repeat it for more rows" : "";
  // allow_extra_args(false): one text an option, and CLI11 does not split a text in [brackets].
  command
      .add_option(options_of(field), texts, help(field, fmt::format("{}{}", field.meaning, more)))
      ->required(required)
      ->allow_extra_args(false)
      ->type_name("TEXT");
}

/// FILE[:SCALE]. A name may have a colon, too: what follows the last one is a scale if it is a
/// number, or if there is a file of the name before it alone.
AdapterFile parse_adapter(const std::string& text) {
  namespace fs = std::filesystem;
  AdapterFile adapter{text, 1.0};
  const size_t colon = text.rfind(':');
  if (colon != text.npos) {
    double scale = 0;
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + colon + 1, end, scale);
    const bool number = stop == end && error == std::errc();
    std::error_code ignored;
    if (!number && !fs::exists(text, ignored) && fs::exists(text.substr(0, colon), ignored)) {
      throw UsageError(fmt::format("--lora {}: the scale '{}' is no decimal number such as 0.8",
                                   text, text.substr(colon + 1)));
    }
    if (number) adapter = {text.substr(0, colon), scale};
  }
  if (adapter.file.empty()) throw UsageError("--lora has no file: give FILE or FILE:SCALE");
  return adapter;
}

void check_count(const RequestField& field, size_t count, size_t prompts) {
  if (count <= 1 || count == prompts) return;
  throw UsageError(
      fmt::format("{} is given {} times, --prompt {} times: give it once, or once for "
                  "each --prompt",
                  option_of(field), count, prompts));
}

}  // namespace

CLI::Option* add_integer_option(CLI::App& command, const RequestField& field,
                                std::optional<int64_t>& value) {
  return command.add_option(options_of(field), value, help(field))
      ->transform(whole_number())
      ->type_name("N");
}

void add_request_options(CLI::App& command, RequestOptions& options) {
  for (const RequestField& field : request_fields()) {
    if (const auto* text = std::get_if<TextField>(&field.kind)) {
      add_text_option(command, field, *text, options.texts[field.name]);
    } else if (const auto* integer = std::get_if<IntegerField>(&field.kind)) {
      add_integer_option(command, field, options.shared.*integer->given);
    } else if (const auto* side = std::get_if<SideField>(&field.kind)) {
      add_integer_option(command, field, options.shared.*side->given);
    } else if (const auto* number = std::get_if<NumberField>(&field.kind)) {
      command.add_option(options_of(field), options.shared.*number->given, help(field))
          ->transform(decimal_number());
    }
  }
}

void add_adapter_option(CLI::App& command, Request& request, std::string_view of) {
  // Not one of the request's fields: a server takes names of its own instead of files.
  command
      .add_option_function<std::vector<std::string>>(
          "--lora",
          [&request](const std::vector<std::string>& texts) {
            for (const std::string& text : texts) request.adapters.push_back(parse_adapter(text));
          },
          fmt::format("an adapter for {} (LoRA, LoKr, LoHa or DoRA) and its scale; repeat it for "
                      "more [default: none, scale 1]",
                      of))
      ->type_name("FILE[:SCALE]")
      ->allow_extra_args(false);
}

void add_image_options(CLI::App& command, RequestOptions& options) {
  // The server takes pixels and bytes of files instead of their names.
  command
      .add_option(
          "--image", options.image,
          "start from this picture (PNG, JPEG or WebP), resized to height x width, not from "
          "noise alone [default: none]")
      ->type_name("FILE");
  command
      .add_option("--mask", options.mask,
                  "generate anew only what is white here, and keep the rest of the picture "
                  "[default: none]")
      ->type_name("FILE")
      ->needs("--image");
  command
      .add_option("--strength", options.shared.strength,
                  "how much of the picture is changed, above 0, at most 1: the share of the steps "
                  "that are done [default: 0.6]")
      ->transform(decimal_number())
      ->needs("--image");
}

void read_images(RequestOptions& options) {
  if (!options.image.empty()) options.shared.image = read_image(options.image);
  if (!options.mask.empty()) options.shared.mask = read_image(options.mask);
}

std::vector<Request> make_requests(const RequestOptions& options) {
  const size_t prompts = options.texts.at("prompt").size();
  std::vector<Request> requests(prompts, options.shared);
  for (const RequestField& field : request_fields()) {
    const auto* text = std::get_if<TextField>(&field.kind);
    if (text == nullptr) continue;
    const std::vector<std::string>& given = options.texts.at(field.name);
    check_count(field, given.size(), prompts);
    for (size_t row = 0; row < prompts && !given.empty(); ++row) {
      requests[row].*text->given = given.size() == 1 ? given[0] : given[row];
    }
  }
  return requests;
}

}  // namespace flux::cli

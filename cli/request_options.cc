#include "cli/request_options.h"

#include "cli/common.h"
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
      command.add_option(options_of(field), options.shared.*number->given, help(field));
    }
  }
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

#include <set>

#include "convert/templates.h"
#include "support/error.h"

namespace flux {
namespace {

constexpr std::string_view kNameCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";

}  // namespace

const Template& find_template(std::string_view name) {
  for (const Template& found : all_templates()) {
    if (found.name == name) return found;
  }
  fail(ErrorCode::kInternal, "template {} is not there", name);
}

std::string fill_template(const Template& source, const TemplateValues& values) {
  std::string result;
  std::set<std::string_view> used;
  const std::string_view text = source.text;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = text.find('@', at);
    result += text.substr(at, begin - at);
    if (begin == text.npos) break;
    const size_t end = text.find_first_not_of(kNameCharacters, begin + 1);
    check(end != text.npos && text[end] == '@' && end > begin + 1, ErrorCode::kInternal,
          "template {}: '@' at byte {} begins no placeholder", source.name, begin);
    const std::string_view name = text.substr(begin + 1, end - begin - 1);
    const auto value = values.find(name);
    check(value != values.end(), ErrorCode::kInternal,
          "template {}: there is no value for placeholder @{}@", source.name, name);
    result += value->second;
    used.insert(name);
    at = end + 1;
  }
  for (const auto& [name, value] : values) {
    check(used.contains(name), ErrorCode::kInternal,
          "template {}: value {} is given for @{}@, which it does not have", source.name, value,
          name);
  }
  return result;
}

}  // namespace flux

#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>

namespace flux {

/// A file of native/ or python/, embedded at build time: a config.pbtxt with @PLACEHOLDERS@
/// (*.pbtxt.in), or a file that is written as it is (*.py, *.md).
struct Template {
  std::string_view name;  // "native/vae_decoder.pbtxt.in"
  std::string_view text;
};

/// All templates.
std::span<const Template> all_templates();

/// The one of that name; throws kInternal when there is none.
const Template& find_template(std::string_view name);

/// Values by placeholder, without the @ signs.
using TemplateValues = std::map<std::string, std::string, std::less<>>;

/// `source` with each @NAME@ (capital letters, digits, underscores) replaced. Throws kInternal for
/// a placeholder without a value, and for a value that has no placeholder.
std::string fill_template(const Template& source, const TemplateValues& values);

}  // namespace flux

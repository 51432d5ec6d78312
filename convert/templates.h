#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>

namespace flux {

/// A config.pbtxt with @PLACEHOLDERS@, embedded from native/<name>.pbtxt.in at build time.
struct ConfigTemplate {
  std::string_view name;  // of the model, "vae_decoder" say
  std::string_view text;
};

/// All templates.
std::span<const ConfigTemplate> config_templates();

/// Values by placeholder, without the @ signs.
using TemplateValues = std::map<std::string, std::string, std::less<>>;

/// `source` with each @NAME@ (capital letters, digits, underscores) replaced. Throws kInternal for
/// a placeholder without a value, and for a value that has no placeholder.
std::string fill_template(const ConfigTemplate& source, const TemplateValues& values);

}  // namespace flux

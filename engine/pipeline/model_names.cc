#include "pipeline/model_names.h"

namespace flux {
namespace {

std::optional<ModelName> name_of_kind(std::string_view name, std::string_view kind) {
  if (!name.ends_with(kind)) return std::nullopt;
  const std::string_view prefix = name.substr(0, name.size() - kind.size());
  if (!prefix.empty() && !prefix.ends_with('_')) return std::nullopt;
  return ModelName{std::string(prefix), kind};
}

}  // namespace

std::optional<ModelName> parse_model_name(std::string_view name) {
  for (const std::string_view kind : kModelNames) {
    if (auto found = name_of_kind(name, kind)) return found;
  }
  for (const std::string_view kind : kOptionalModelNames) {
    if (auto found = name_of_kind(name, kind)) return found;
  }
  return std::nullopt;
}

}  // namespace flux

#include "pipeline/model_names.h"

namespace flux {

std::optional<ModelName> parse_model_name(std::string_view name) {
  for (const std::string_view kind : kModelNames) {
    if (!name.ends_with(kind)) continue;
    const std::string_view prefix = name.substr(0, name.size() - kind.size());
    if (prefix.empty() || prefix.ends_with('_')) return ModelName{std::string(prefix), kind};
  }
  return std::nullopt;
}

}  // namespace flux

#include "pipeline/stage_kind.h"

#include <string>

#include "support/error.h"
#include "support/utf8.h"

namespace flux {

std::string_view name_of(StageKind stage) { return kStages[static_cast<size_t>(stage)].name; }

StageKind parse_stage(std::string_view name) {
  std::string known;
  for (const StageInfo& stage : kStages) {
    if (name == stage.name) return stage.kind;
    const bool last = &stage == &kStages[std::size(kStages) - 1];
    known += fmt::format("{}{}", known.empty() ? "" : last ? " or " : ", ", stage.name);
  }
  fail(ErrorCode::kInvalidArgument, "stage '{}' is not known: use {}", excerpt(name), known);
}

}  // namespace flux

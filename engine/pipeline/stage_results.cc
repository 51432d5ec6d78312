#include "pipeline/stage_results.h"

#include "pipeline/latents.h"
#include "tensor/format.h"

namespace flux {

void check_result(std::string_view stage, std::string_view output, const ConstTensor& values,
                  ErrorCode code) {
  if (!values.device().is_cpu() || all_finite(values)) return;
  throw Error(
      code,
      fmt::format("output {} of {} holds values that are not finite: the weights are damaged, or "
                  "the inputs too large for {}",
                  output, stage, values.dtype()),
      SourceLocation{});
}

}  // namespace flux

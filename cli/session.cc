#include "cli/session.h"

#include "pipeline/request.h"
#include "runtime/context.h"

namespace flux::cli {

Session open_session(const ComputeOptions& options) {
  as_usage([&] { check_options(options.model); });
  Session session = flux::open_session(options.source, options.model);
  session.stages->context().set_cancel_check(interrupted);
  return session;
}

int sequence_length(const std::optional<int64_t>& given, const FluxConfig& config) {
  int length = 0;
  as_usage([&] { length = checked_sequence_length(given, config); });
  return length;
}

nlohmann::json to_json(const Shape& shape) {
  auto sizes = nlohmann::json::array();
  for (int i = 0; i < shape.rank(); ++i) sizes.push_back(shape[i]);
  return sizes;
}

}  // namespace flux::cli

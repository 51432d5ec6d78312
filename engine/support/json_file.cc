#include "support/json_file.h"

#include "support/error.h"
#include "support/file.h"
#include "support/foreign_content.h"

namespace flux {

nlohmann::json read_json_file(const std::filesystem::path& file) {
  constexpr size_t kMaxBytes = size_t{64} << 20;
  constexpr int kMaxDepth = 64;
  const std::string text = read_text_file(file, kMaxBytes);
  const auto watch = [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    check(depth <= kMaxDepth, ErrorCode::kInvalidArgument, "{}: nests deeper than {} levels", file,
          kMaxDepth);
    return true;
  };
  try {
    return nlohmann::json::parse(text, watch);
  } catch (const nlohmann::json::exception& e) {
    const std::string_view foreign = foreign_content(text);
    check(foreign.empty(), ErrorCode::kInvalidArgument, "{}: {}", file, foreign);
    fail(ErrorCode::kInvalidArgument, "{}: not valid JSON: {}", file, e.what());
  }
}

}  // namespace flux

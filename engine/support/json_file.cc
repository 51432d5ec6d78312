#include "support/json_file.h"

#include <fmt/format.h>

#include <algorithm>

#include "support/error.h"
#include "support/file.h"
#include "support/foreign_content.h"
#include "support/json_outline.h"
#include "support/utf8.h"

namespace flux {

std::string json_problem(std::string_view text, const nlohmann::json::exception& error) {
  const auto* parsing = dynamic_cast<const nlohmann::json::parse_error*>(&error);
  if (parsing == nullptr) return "it holds a number that is out of range";
  if (parsing->byte > text.size()) return "it ends too early";
  const size_t at = std::max<size_t>(parsing->byte, 1) - 1;  // counted from 1
  const std::string_view before = text.substr(0, at);
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const size_t column = at - (before.rfind('\n') + 1) + 1;  // npos + 1 is 0
  const auto byte = static_cast<unsigned char>(text[at]);
  std::string found = fmt::format("byte 0x{:02x}", byte);
  if (byte > 0x20 && byte < 0x7f) found = fmt::format("'{}'", text[at]);
  if (byte == '\n') found = "end of the line";
  return fmt::format("line {}, column {}: unexpected {}", line, column, found);
}

nlohmann::json read_json_file(const std::filesystem::path& file) {
  constexpr size_t kMaxBytes = size_t{64} << 20;
  constexpr int kMaxDepth = 64;
  const std::string text = read_file(file, kMaxBytes);
  check(outline_of(text, kMaxDepth).depth <= kMaxDepth, ErrorCode::kInvalidArgument,
        "{}: nests deeper than {} levels", file, kMaxDepth);
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& e) {
    const std::string_view foreign = foreign_content(text);
    check(foreign.empty(), ErrorCode::kInvalidArgument, "{}: {}", file, foreign);
    fail(ErrorCode::kInvalidArgument, "{}: not valid JSON: {}", file, json_problem(text, e));
  }
}

std::string quoted(const nlohmann::json& value) {
  return excerpt(value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

}  // namespace flux

#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace flux {

/// Reads a config.pbtxt as protobuf's text format, without keeping anything of it. Returns what a
/// server could not read, as "line 12, column 3: ..."; nothing where it can. Fields of ModelConfig
/// that may be there only once are known, others are not judged: a newer server may have more.
/// Source: https://protobuf.dev/reference/protobuf/textformat-spec
std::optional<std::string> find_text_format_error(std::string_view text);

}  // namespace flux

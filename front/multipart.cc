#include "front/multipart.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

#include "front/api_error.h"
#include "support/trimmed.h"
#include "support/utf8.h"

namespace flux::front {
namespace {

constexpr std::string_view kFormType = "multipart/form-data";
constexpr size_t kMaxBoundaryBytes = 70;  // RFC 2046

[[noreturn]] void refuse(const std::string& problem) {
  throw ApiError(400,
                 fmt::format("the body is no form as multipart/form-data has it: {}", problem));
}

/// Takes a value off the beginning: a quoted string, in which a backslash stands before a quote or
/// a backslash, or all up to the next semicolon. Nothing for a quote that does not end.
std::optional<std::string> take_value(std::string_view& rest) {
  if (!rest.starts_with('"')) {
    const size_t end = std::min(rest.find(';'), rest.size());
    std::string value(trimmed(rest.substr(0, end)));
    rest.remove_prefix(end);
    return value;
  }
  std::string value;
  for (size_t i = 1; i < rest.size(); ++i) {
    const bool escapes =
        rest[i] == '\\' && i + 1 < rest.size() && (rest[i + 1] == '"' || rest[i + 1] == '\\');
    if (rest[i] == '"') {
      rest.remove_prefix(i + 1);
      return value;
    }
    value += rest[escapes ? ++i : i];
  }
  return std::nullopt;
}

/// The parameters of a header's value: what follows its first semicolon. Names in lower case.
/// Nothing for what is not NAME=VALUE, or comes twice.
std::optional<std::map<std::string, std::string>> parameters_of(std::string_view value) {
  std::map<std::string, std::string> parameters;
  std::string_view rest = value.substr(std::min(value.find(';'), value.size()));
  while (!(rest = trimmed(rest)).empty()) {
    if (rest.front() != ';') return std::nullopt;
    rest = trimmed(rest.substr(1));
    if (rest.empty()) break;
    const size_t equals = rest.find('=');
    if (equals == rest.npos) return std::nullopt;
    const std::string name = lower_case(trimmed(rest.substr(0, equals)));
    rest = trimmed(rest.substr(equals + 1));
    const std::optional<std::string> parameter = take_value(rest);
    if (!parameter || !parameters.emplace(name, *parameter).second) return std::nullopt;
  }
  return parameters;
}

std::string boundary_of(std::string_view content_type) {
  const auto parameters = parameters_of(content_type);
  const auto found = parameters ? parameters->find("boundary") : decltype(parameters->end()){};
  if (!parameters || found == parameters->end() || found->second.empty() ||
      found->second.size() > kMaxBoundaryBytes) {
    refuse(
        fmt::format("Content-Type must give a boundary of 1 to {} characters", kMaxBoundaryBytes));
  }
  return found->second;
}

/// Reads the lines of a part's head into `part`.
void read_head(std::string_view head, size_t number, FormPart& part) {
  bool named = false;
  while (!head.empty()) {
    const size_t end = std::min(head.find("\r\n"), head.size());
    const std::string_view line = head.substr(0, end);
    head.remove_prefix(std::min(end + 2, head.size()));
    const size_t colon = line.find(':');
    if (colon == line.npos) refuse(fmt::format("part {} has a line without a colon", number));
    const std::string name = lower_case(trimmed(line.substr(0, colon)));
    const std::string_view value = trimmed(line.substr(colon + 1));
    if (name == "content-transfer-encoding" && lower_case(value) != "binary" &&
        lower_case(value) != "8bit" && lower_case(value) != "7bit") {
      refuse(fmt::format("part {} has a Content-Transfer-Encoding: send it as it is", number));
    }
    if (name != "content-disposition") continue;
    const auto parameters = parameters_of(value);
    const bool is_field = lower_case(trimmed(value.substr(0, value.find(';')))) == "form-data";
    if (named || !is_field || !parameters || parameters->count("name") == 0) {
      refuse(fmt::format("part {} needs one Content-Disposition: form-data; name=\"...\"", number));
    }
    part.name = parameters->at("name");
    part.is_file = parameters->count("filename") > 0 || parameters->count("filename*") > 0;
    named = true;
  }
  if (!named) refuse(fmt::format("part {} has no Content-Disposition", number));
  if (find_invalid_utf8(part.name)) refuse(fmt::format("the name of part {} is no UTF-8", number));
}

/// Takes a line's end, before which there may be blanks, off the beginning. Returns whether there
/// is one.
bool take_line_end(std::string_view& rest) {
  const size_t at = rest.find_first_not_of(" \t");
  if (at == rest.npos || !rest.substr(at).starts_with("\r\n")) return false;
  rest.remove_prefix(at + 2);
  return true;
}

}  // namespace

bool is_multipart(std::string_view content_type) {
  return lower_case(trimmed(content_type.substr(0, content_type.find(';')))) == kFormType;
}

std::vector<FormPart> parse_multipart(std::string_view content_type, std::string_view body) {
  const std::string delimiter = "\r\n--" + boundary_of(content_type);
  const std::string_view first = std::string_view(delimiter).substr(2);
  // What is before the first delimiter means nothing.
  std::string_view rest = body;
  if (rest.starts_with(first)) {
    rest.remove_prefix(first.size());
  } else {
    const size_t at = rest.find(delimiter);
    if (at == rest.npos) refuse("its boundary is nowhere");
    rest.remove_prefix(at + delimiter.size());
  }
  std::vector<FormPart> parts;
  while (!rest.starts_with("--")) {
    const size_t number = parts.size() + 1;
    if (number > kMaxFormParts) refuse(fmt::format("it has more than {} parts", kMaxFormParts));
    if (!take_line_end(rest))
      refuse(fmt::format("a boundary before part {} is not a line", number));
    FormPart& part = parts.emplace_back();
    size_t head = 0;
    if (!rest.starts_with("\r\n")) {
      head = rest.substr(0, kMaxPartHeadBytes).find("\r\n\r\n");
      if (head == rest.npos) {
        refuse(fmt::format("the head of part {} does not end within {} bytes", number,
                           kMaxPartHeadBytes));
      }
      read_head(rest.substr(0, head), number, part);
      head += 2;
    } else {
      read_head({}, number, part);
    }
    rest.remove_prefix(head + 2);
    // An empty part has its delimiter at once, whose line end is that of the head.
    const bool is_empty = rest.starts_with(first);
    const size_t end = is_empty ? 0 : rest.find(delimiter);
    if (end == rest.npos) refuse(fmt::format("part {} has no end", number));
    part.content = rest.substr(0, end);
    rest.remove_prefix(end + (is_empty ? first.size() : delimiter.size()));
  }
  return parts;
}

}  // namespace flux::front

#include "cli/server_log.h"

#include <algorithm>

namespace flux::cli {
namespace {

/// Longer lines are cut, because the log is not under our control.
constexpr size_t kMaxLine = 4096;

/// What the parser of config.pbtxt begins with; line, column and cause follow.
constexpr std::string_view kParser = "Error parsing text-format inference.ModelConfig: ";
constexpr std::string_view kUnreadConfig = "Poll failed for model directory '";

/// The server's own lines look like this: E1122 07:15:12.369113 27517 model_lifecycle.cc:642]
/// "failed to ..."
bool is_logged_error(std::string_view line) {
  return line.size() > 5 && line[0] == 'E' &&
         std::all_of(line.begin() + 1, line.begin() + 5,
                     [](char c) { return c >= '0' && c <= '9'; });
}

/// Returns the message without time, place and quotation marks.
std::string_view message_of(std::string_view line) {
  const size_t place = line.find("] ");
  if (place != line.npos) line.remove_prefix(place + 2);
  if (line.size() >= 2 && line.front() == '"' && line.back() == '"') {
    line = line.substr(1, line.size() - 2);
  }
  // A Python traceback may follow the message, on the same line.
  return line.substr(0, line.find("\\n\\nAt:\\n"));
}

}  // namespace

void ServerLog::add(std::string_view bytes) {
  while (!bytes.empty()) {
    const size_t end = std::min(bytes.find('\n'), bytes.size());
    const size_t room = kMaxLine - std::min(unfinished_.size(), kMaxLine);
    unfinished_ += bytes.substr(0, std::min(end, room));
    if (end == bytes.size()) return;
    add_line(unfinished_);
    unfinished_.clear();
    bytes.remove_prefix(end + 1);
  }
}

void ServerLog::add_line(std::string_view line) {
  while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.remove_suffix(1);
  if (line.empty()) return;
  last_ = line;
  if (line.find("Waiting for in-flight requests") != line.npos) stops_models_ = true;
  if (line.find("Exit timeout expired") != line.npos) exit_timed_out_ = true;
  if (const size_t parser = line.find(kParser); parser != line.npos) {
    if (config_error_.empty()) config_error_ = line.substr(parser + kParser.size());
  } else if (is_logged_error(line)) {
    const std::string_view message = message_of(line);
    const bool of_a_model = message.starts_with("failed to load '") ||
                            message.starts_with("failed to load model '") ||
                            message.starts_with(kUnreadConfig);
    if (of_a_model && model_failure_.empty()) model_failure_ = message;
    // A line about GPU drivers is in every log of a machine without a GPU.
    if (message.find("CudaDriverHelper") == message.npos) logged_error_ = message;
  } else if (line.starts_with("error: ") || line.starts_with("failed to start ")) {
    error_ = line.starts_with("error: ") ? line.substr(7) : line;
  } else if (line.find("tritonserver: ") != line.npos && usage_error_.empty()) {
    // getopt's words, which a page of help follows: "tritonserver: unrecognized option '--x'"
    const std::string_view words = line.substr(line.find("tritonserver: ") + 14);
    if (words.find("option") != words.npos) usage_error_ = words;
  }
}

std::string ServerLog::reason() const {
  if (!usage_error_.empty()) return usage_error_;
  if (model_failure_.starts_with(kUnreadConfig) && !config_error_.empty()) {
    return model_failure_ + ": " + config_error_;
  }
  if (!model_failure_.empty()) return model_failure_;
  if (!error_.empty()) return error_;
  if (!logged_error_.empty()) return logged_error_;
  return unfinished_.empty() ? last_ : unfinished_;
}

}  // namespace flux::cli

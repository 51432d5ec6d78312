#include "cli/endpoints.h"

#include <algorithm>

#include "cli/ports.h"
#include "support/error.h"
#include "support/utf8.h"

namespace flux::cli {
namespace {

/// Whether the server takes `text` for false.
bool is_false(const std::string& text) {
  const std::string lower = lower_case(text);
  return lower == "false" || lower == "0" || lower == "off";
}

}  // namespace

void Endpoints::heed(const std::vector<std::string>& arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    const size_t equals = std::min(argument.find('='), argument.size());
    const std::string name = argument.substr(0, equals);
    std::string value = argument.substr(std::min(equals + 1, argument.size()));
    if (equals == argument.size() && i + 1 < arguments.size()) value = arguments[i + 1];
    if (!is_false(value)) continue;
    if (name == "--allow-http") http.reset();
    if (name == "--allow-grpc") grpc.reset();
    if (name == "--allow-metrics") metrics.reset();
  }
}

bool Endpoints::ready() const {
  if (!http) return Connection(address, grpc.value()).is_open();
  const auto answer = http_get(address, *http, "/v2/health/ready");
  return answer && (answer->status == 200 || answer->status == 403);
}

std::string Endpoints::describe(const std::string& bls) const {
  std::string text;
  if (http) text += fmt::format("HTTP     http://{}:{}\n", address, *http);
  if (grpc) text += fmt::format("gRPC     {}:{}\n", address, *grpc);
  if (metrics) text += fmt::format("metrics  http://{}:{}/metrics\n", address, *metrics);
  if (!http) return text;
  return text +
         fmt::format(
             "try      curl -s http://{}:{}/v2/models/{}/generate -d "
             "'{{\"prompt\": \"a lighthouse at dawn\", \"output_format\": \"png_base64\"}}'\n",
             address, *http, bls);
}

}  // namespace flux::cli

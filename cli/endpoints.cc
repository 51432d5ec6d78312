#include "cli/endpoints.h"

#include <algorithm>

#include "cli/ports.h"
#include "cli/server_arguments.h"
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
  const auto is_off = [&](const char* name) {
    const std::vector<std::string> values = values_of(name, arguments);
    return std::any_of(values.begin(), values.end(), is_false);
  };
  if (is_off("--allow-http")) http.reset();
  if (is_off("--allow-grpc")) grpc.reset();
  if (is_off("--allow-metrics")) metrics.reset();
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
  if (front) text += fmt::format("front    http://{}:{}/\n", address, *front);
  if (bls.empty()) return text;
  if (front) {
    return text + fmt::format(
                      "try      curl -s http://{}:{}/v1/images/generations -d '{{\"prompt\": \"a "
                      "lighthouse at dawn\"}}'\n",
                      address, *front);
  }
  if (!http) return text;
  return text +
         fmt::format(
             "try      curl -s http://{}:{}/v2/models/{}/generate -d "
             "'{{\"prompt\": \"a lighthouse at dawn\", \"output_format\": \"png_base64\"}}'\n",
             address, *http, bls);
}

}  // namespace flux::cli

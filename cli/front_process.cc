#include "cli/front_process.h"

#include <algorithm>

#include "cli/serving_files.h"
#include "convert/repository_layout.h"
#include "pipeline/model_names.h"
#include "support/error.h"
#include "support/log.h"

namespace flux::cli {
namespace {

namespace fs = std::filesystem;

bool has_stream(const fs::path& repository) {
  const auto prefixes = prefixes_of(repository);
  return std::any_of(prefixes.begin(), prefixes.end(), [&](const std::string& prefix) {
    std::error_code error;
    return fs::exists(repository / fmt::format("{}{}", prefix, kStreamName) / "config.pbtxt",
                      error);
  });
}

/// Why there can be no front; empty: there can.
std::string hindrance(const fs::path& repository, const Endpoints& endpoints,
                      const std::optional<fs::path>& program) {
  if (!has_stream(repository)) {
    return "the repository has no model bls_stream (it is of an older convert, or its pipeline "
           "runs "
           "in Python)";
  }
  if (!endpoints.grpc) return "--allow-grpc is false";
  if (!program) return "flux-triton-front is not near this program";
  return "";
}

}  // namespace

std::optional<Command> front_command(const FrontOptions& options, const fs::path& repository,
                                     const std::string& address, const Endpoints& endpoints) {
  if (options.port == 0) return std::nullopt;
  const auto program = find_front();
  const std::string why = hindrance(repository, endpoints, program);
  if (!why.empty()) {
    log(LogLevel::kInfo, fmt::format("no HTTP front on port {}: {}", options.port, why));
    return std::nullopt;
  }
  Command command;
  command.program = *program;
  const std::string& server = endpoints.address;
  command.arguments = {fmt::format("--triton={}:{}", server, *endpoints.grpc),
                       fmt::format("--address={}", address), fmt::format("--port={}", options.port),
                       fmt::format("--max-waiting={}", options.max_waiting)};
  if (endpoints.metrics) {
    command.arguments.push_back(fmt::format("--metrics={}:{}", server, *endpoints.metrics));
  }
  if (!options.api_key_file.empty()) {
    command.arguments.push_back(fmt::format("--api-key-file={}", options.api_key_file));
  }
  return command;
}

}  // namespace flux::cli

#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "cli/child_process.h"
#include "cli/endpoints.h"

namespace flux::cli {

/// What serve's own options say of the front.
struct FrontOptions {
  int64_t port = 8080;  // 0: none
  std::string api_key_file;
  int64_t max_waiting = 256;  // requests of each pipeline
};

/// The command of the front beside a server; nothing, and a line that says why, where a repository
/// has no pipeline that answers with every step, the server no gRPC, or this program no front.
std::optional<Command> front_command(const FrontOptions& options,
                                     const std::filesystem::path& repository,
                                     const std::string& address, const Endpoints& endpoints);

}  // namespace flux::cli

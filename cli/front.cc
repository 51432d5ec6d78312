#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "cli/common.h"
#include "cli/serving_files.h"
#include "support/error.h"

namespace flux::cli {

void add_front(CLI::App& app, Action&) {
  app.add_subcommand("front", "answers OpenAI's images API over HTTP, beside a tritonserver");
}

void become_front(char** arguments) {
  const auto program = find_front();
  check(
      program.has_value(), ErrorCode::kNotFound,
      "flux-triton-front is not near this program: it is left out where Boost or gRPC were not "
      "there to build it with, and of the wheel; use the Debian package or build it (make build)");
  arguments[0] = const_cast<char*>(program->c_str());
  ::execv(program->c_str(), arguments);
  fail(ErrorCode::kUnavailable, "{}: cannot be started: {}", *program, std::strerror(errno));
}

}  // namespace flux::cli

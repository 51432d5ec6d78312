#include "triton/options.h"

#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "ops/context.h"
#include "support/log.h"
#include "triton/errors.h"

namespace flux::triton {
namespace {

Options& mutable_options() {
  static Options instance;
  return instance;
}

int parse_threads(const std::string& text) {
  const bool digits =
      !text.empty() && text.size() <= 4 && text.find_first_not_of("0123456789") == text.npos;
  const int value = digits ? std::stoi(text) : 0;
  check(value >= 1 && value <= 1024, ErrorCode::kInvalidArgument,
        "--backend-config=flux,threads={}: must be a number from 1 to 1024", text);
  return value;
}

}  // namespace

void read_options(ServerBackend* backend) {
  Options read;
  read.threads = default_threads();
  Message* message = nullptr;
  check_ok(api().TRITONBACKEND_BackendConfig(backend, &message));
  const char* text = nullptr;
  size_t size = 0;
  check_ok(api().TRITONSERVER_MessageSerializeToJson(message, &text, &size));
  const auto config = nlohmann::json::parse(std::string(text, size));
  // Settings that the server itself hands to every backend.
  static const std::set<std::string> kServers = {"auto-complete-config", "backend-directory",
                                                 "min-compute-capability",
                                                 "default-max-batch-size"};
  const auto settings = config.value("cmdline", nlohmann::json::object());
  for (const auto& [key, value] : settings.items()) {
    if (key == "threads") {
      read.threads = parse_threads(value.is_string() ? value.get<std::string>() : value.dump());
    } else if (!kServers.contains(key)) {
      log_warning("--backend-config=flux,{}: not a setting of this backend (threads is)", key);
    }
  }
  mutable_options() = read;
}

const Options& options() { return mutable_options(); }

std::mutex& cpu_gate() {
  static std::mutex gate;
  return gate;
}

}  // namespace flux::triton

#include "triton/options.h"

#include <algorithm>
#include <charconv>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "runtime/context.h"
#include "support/byte_size.h"
#include "support/default_threads.h"
#include "support/log.h"
#include "triton/errors.h"

namespace flux::triton {
namespace {

struct Setting {
  const char* name;
  int64_t Options::*value;
  int64_t low;
  int64_t high;
};

constexpr Setting kSettings[] = {
    {"computations", &Options::computations, 1, 64},
    {"threads", &Options::threads, 1, kMaxThreads},
    {"max_slowdown", &Options::max_slowdown, 2, 1000},
    {"max_side", &Options::max_side, 16, 8192},
    {"max_steps", &Options::max_steps, 1, RequestLimits{}.max_steps},
    {"max_images", &Options::max_images, 1, RequestLimits{}.max_images_per_prompt},
};

Options& mutable_options() {
  static Options instance;
  return instance;
}

/// The turns that are free. Not a std::counting_semaphore: that of libstdc++ can lose a wake-up
/// (its bug 104928), and who waits then waits for ever.
struct CpuTurns {
  std::mutex mutex;
  std::condition_variable freed;
  int64_t free = options().computations;
};
CpuTurns& cpu_turns() {
  static CpuTurns turns;
  return turns;
}

int64_t parse(const Setting& setting, const std::string& text) {
  int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  check(error == std::errc() && rest == end && value >= setting.low && value <= setting.high,
        ErrorCode::kInvalidArgument,
        "--backend-config=flux,{}={}: must be a whole number from {} to {}", setting.name, text,
        setting.low, setting.high);
  return value;
}

/// Reads a setting that is no whole number; an error names it.
template <typename Read>
void in_words(const std::string& key, const Read& read) {
  try {
    read();
  } catch (const Error& error) {
    fail(error.code(), "--backend-config=flux,{}: {}", key, error.what());
  }
}

std::string names_of_settings() {
  std::string names = "policy, weight_memory, lora_memory";
  for (const Setting& setting : kSettings) names += fmt::format(", {}", setting.name);
  return names;
}

void read_setting(const std::string& key, const std::string& value, Options& read) {
  // The server itself hands these settings to every backend.
  static const std::set<std::string> kServers = {"auto-complete-config", "backend-directory",
                                                 "min-compute-capability",
                                                 "default-max-batch-size"};
  const auto* found = std::find_if(std::begin(kSettings), std::end(kSettings),
                                   [&](const Setting& setting) { return key == setting.name; });
  if (found != std::end(kSettings)) {
    read.*(found->value) = parse(*found, value);
  } else if (key == "policy") {
    in_words(key, [&] { read.policy = parse_step_policy(value); });
  } else if (key == "weight_memory") {
    in_words(key, [&] { read.weight_memory = parse_byte_size(value); });
  } else if (key == "lora_memory") {
    in_words(key, [&] { read.lora_memory = parse_byte_size(value); });
  } else if (!kServers.contains(key)) {
    // An unknown setting is no error: settings for all backends arrive here, too.
    log_warning("--backend-config=flux,{}: not a setting of this backend; it has {}", key,
                names_of_settings());
  }
}

}  // namespace

void read_options(ServerBackend* backend) {
  Message* message = nullptr;
  check_ok(api().TRITONBACKEND_BackendConfig(backend, &message));
  const char* text = nullptr;
  size_t size = 0;
  check_ok(api().TRITONSERVER_MessageSerializeToJson(message, &text, &size));
  const auto config = nlohmann::json::parse(std::string(text, size));
  const auto settings = config.value("cmdline", nlohmann::json::object());
  Options read;
  for (const auto& [key, value] : settings.items()) {
    read_setting(key, value.is_string() ? value.get<std::string>() : value.dump(), read);
  }
  if (read.threads == 0) {
    read.threads = std::max<int64_t>(1, default_threads() / read.computations);
  }
  mutable_options() = read;
}

const Options& options() { return mutable_options(); }

CpuTurn::CpuTurn() {
  CpuTurns& turns = cpu_turns();
  std::unique_lock lock(turns.mutex);
  turns.freed.wait(lock, [&] { return turns.free > 0; });
  --turns.free;
}

CpuTurn::~CpuTurn() {
  CpuTurns& turns = cpu_turns();
  {
    const std::scoped_lock lock(turns.mutex);
    ++turns.free;
  }
  turns.freed.notify_one();
}

}  // namespace flux::triton

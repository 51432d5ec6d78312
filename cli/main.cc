#include <cstdio>
#include <new>

#include "cli/common.h"
#include "support/error.h"
#include "support/log.h"

namespace flux::cli {
namespace {

void report(std::string_view message) {
  fmt::print(stderr, "flux-triton: error: {}\n", one_line(message));
}

void log_to_stderr(LogLevel level, std::string_view message) {
  constexpr const char* kKinds[] = {"info", "warning", "error"};
  fmt::print(stderr, "flux-triton: {}: {}\n", kKinds[static_cast<size_t>(level)],
             one_line(message));
}

int end_parsing(const CLI::App& app, const CLI::ParseError& error) {
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {
    // --help and --version arrive as exceptions too; app.exit() prints them.
    std::ostringstream out;
    app.exit(error, out, out);
    print_out(out.str());
    return kDone;
  }
  std::string message = error.what();
  const std::vector<std::string> unknown = app.remaining();
  if (app.get_subcommands().empty() && !unknown.empty()) {
    std::string commands;
    for (const CLI::App* command : app.get_subcommands({})) commands += " " + command->get_name();
    message = fmt::format("'{}' is no {}: use one of{}", unknown.front(),
                          unknown.front().starts_with("-") ? "option of flux-triton" : "command",
                          unknown.front().starts_with("-") ? " --help --version" : commands);
  }
  report(message + "; see --help");
  return kWrongUsage;
}

int parse_and_run(int argc, char** argv) {
  CLI::App app("Generates images from prompts with FLUX.1 checkpoints, equal to diffusers.",
               "flux-triton");
  app.set_version_flag("--version", "flux-triton " FLUX_VERSION);
  app.require_subcommand(1);
  Action run;
  add_generate(app, run);
  add_run_stage(app, run);
  add_check(app, run);
  add_tokenize(app, run);
  add_inspect(app, run);
  add_bench(app, run);
  add_convert(app, run);
  add_serve(app, run);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return end_parsing(app, error);
  }
  run();
  return kDone;
}

/// Turns every failure into one line on standard error and an exit code.
int guarded_main(int argc, char** argv) {
  try {
    return parse_and_run(argc, argv);
  } catch (const UsageError& error) {
    report(error.what());
    return kWrongUsage;
  } catch (const Error& error) {
    report(error.report());
    return error.code() == ErrorCode::kCancelled ? kInterrupted : kFailed;
  } catch (const std::bad_alloc&) {
    report("out of memory: use a smaller size, fewer images or --dtype bf16");
  } catch (const std::exception& error) {
    report(error.what());
  }
  return kFailed;
}

}  // namespace
}  // namespace flux::cli

int main(int argc, char** argv) {
  flux::cli::guard_standard_streams();
  flux::cli::watch_for_interruption();
  flux::set_log_sink(flux::cli::log_to_stderr);
  return flux::cli::guarded_main(argc, argv);
}

#include <algorithm>
#include <cstdio>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "cli/common.h"
#include "support/edit_distance.h"
#include "support/error.h"
#include "support/filesystem_error.h"
#include "support/utf8.h"

namespace flux::cli {
namespace {

/// CLI11 leaves two empty lines between groups of options.
std::string single_spaced(std::string text) {
  for (size_t at = 0; (at = text.find("\n\n\n", at)) != text.npos;) text.erase(at, 1);
  return text;
}

/// The option of a command that is nearest to `name`, which is none; empty when none is near.
std::string nearest_option(const CLI::App& command, std::string_view name) {
  std::string nearest;
  size_t least = 1 + name.size() / 3;  // so many letters may be wrong
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& known : option->get_lnames()) {
      const size_t distance = edit_distance(name, "--" + known);
      if (distance >= least) continue;
      least = distance;
      nearest = "--" + known;
    }
  }
  return nearest;
}

/// What to say of an argument that the command does not know.
std::string unknown_argument(const CLI::App& command, const std::string& argument) {
  const std::string name = argument.substr(0, argument.find('='));
  if (!name.starts_with("-")) {
    return fmt::format("'{}' was not expected: it is one argument too many", argument);
  }
  const std::string nearest = nearest_option(command, name);
  return fmt::format("{} is no option of {}{}", name, command.get_name(),
                     nearest.empty() ? "" : fmt::format(": did you mean {}?", nearest));
}

int end_parsing(const CLI::App& app, const CLI::ParseError& error) {
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {
    // --help and --version arrive as exceptions too; app.exit() prints them.
    std::ostringstream out;
    app.exit(error, out, out);
    print_out(single_spaced(out.str()));
    return kDone;
  }
  std::string message = error.what();
  const std::vector<std::string> unknown = app.remaining(true);
  const bool extra = error.get_exit_code() == static_cast<int>(CLI::ExitCodes::ExtrasError);
  if (extra && !app.get_subcommands().empty() && !unknown.empty()) {
    message = unknown_argument(*app.get_subcommands().front(), unknown.front());
  } else if (app.get_subcommands().empty() && !unknown.empty()) {
    std::string commands;
    for (const CLI::App* command : app.get_subcommands({})) commands += " " + command->get_name();
    message = fmt::format("'{}' is no {}: use one of{}", excerpt(unknown.front()),
                          unknown.front().starts_with("-") ? "option of flux-triton" : "command",
                          unknown.front().starts_with("-") ? " --help --version" : commands);
  }
  report(LogLevel::kError, message + "; see --help");
  return kWrongUsage;
}

/// The arguments in the order that CLI11 parses, the last one first. `--option=` becomes the option
/// and an empty value: CLI11 would take the next argument as its value.
std::vector<std::string> arguments_of(int argc, char** argv) {
  std::vector<std::string> arguments;
  bool options = true;  // none follows "--"
  for (int i = 1; i < argc; ++i) {
    const std::string_view text = argv[i];
    if (text == "--") options = false;
    const bool empty_value =
        options && text.size() > 3 && text.starts_with("--") && text.find('=') == text.size() - 1;
    arguments.emplace_back(empty_value ? text.substr(0, text.size() - 1) : text);
    if (empty_value) arguments.emplace_back();
  }
  std::reverse(arguments.begin(), arguments.end());
  return arguments;
}

/// Refuses an option without its value where another option follows, which CLI11 would take for the
/// value. A text that looks so can be given as --prompt=TEXT.
void check_values_follow(const CLI::App& app, int argc, char** argv) {
  const std::vector<const CLI::App*> commands = app.get_subcommands(
      [&](const CLI::App* each) { return argc > 1 && each->get_name() == argv[1]; });
  if (commands.empty()) return;
  const CLI::App* command = commands.front();
  const auto option_of = [&](std::string_view text) -> const CLI::Option* {
    return text.starts_with('-') ? command->get_option_no_throw(std::string(text)) : nullptr;
  };
  for (int i = 2; i + 1 < argc && std::string_view(argv[i]) != "--"; ++i) {
    const CLI::Option* option = option_of(argv[i]);
    if (option == nullptr || option->get_items_expected_min() == 0) continue;
    const std::string_view next = argv[++i];
    if (option_of(next.substr(0, next.find('='))) == nullptr) continue;
    throw UsageError(fmt::format(
        "{} lacks its value: {} follows, which is an option; if it is meant as the value, "
        "write {}={}; see --help",
        argv[i - 1], next, argv[i - 1], next));
  }
}

/// Refuses an empty value of an option, where it is no prompt: a variable of a shell was empty.
/// Refuses `-o=FILE`, too, of which CLI11 makes the value `=FILE`.
void check_values(const CLI::App& command) {
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_type_name() == "TEXT") continue;
    const std::vector<std::string>& values = option->results();
    if (!option->get_snames().empty() && !values.empty() && values.front().starts_with('=')) {
      throw UsageError(fmt::format("-{}{}: write -{} {}", option->get_snames().front(),
                                   values.front(), option->get_snames().front(),
                                   values.front().substr(1)));
    }
    if (std::find(values.begin(), values.end(), "") == values.end()) continue;
    throw UsageError(fmt::format("{} is empty: give it a value or leave it out; see --help",
                                 option->get_name()));
  }
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
  add_front(app, run);
  check_values_follow(app, argc, argv);
  try {
    app.parse(arguments_of(argc, argv));
  } catch (const CLI::ParseError& error) {
    return end_parsing(app, error);
  }
  for (const CLI::App* command : app.get_subcommands()) check_values(*command);
  run();
  return kDone;
}

/// Turns every failure into one line on standard error and an exit code.
int guarded_main(int argc, char** argv) {
  try {
    if (argc > 1 && std::string_view(argv[1]) == "front") become_front(argv + 1);
    return parse_and_run(argc, argv);
  } catch (const UsageError& error) {
    report(LogLevel::kError, error.what());
    return kWrongUsage;
  } catch (const Error& error) {
    report(LogLevel::kError, report_of(error));
    return error.code() == ErrorCode::kCancelled ? kInterrupted : kFailed;
  } catch (const std::filesystem::filesystem_error& error) {
    report(LogLevel::kError, as_error(error).what());
  } catch (const std::bad_alloc&) {
    report(LogLevel::kError, "out of memory: use a smaller size, fewer images or --dtype bf16");
  } catch (const std::exception& error) {
    report(LogLevel::kError, error.what());
  }
  return kFailed;
}

}  // namespace
}  // namespace flux::cli

int main(int argc, char** argv) {
  flux::cli::guard_standard_streams();
  flux::cli::watch_for_interruption();
  flux::set_log_sink(flux::cli::report);
  return flux::cli::guarded_main(argc, argv);
}

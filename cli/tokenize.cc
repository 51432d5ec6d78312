#include "cli/common.h"
#include "cli/help.h"
#include "cli/request_options.h"
#include "cli/session.h"
#include "convert/repository_layout.h"
#include "pipeline/request.h"
#include "pipeline/request_fields.h"
#include "pipeline/text_stages.h"
#include "support/log.h"

namespace flux::cli {
namespace {

struct TokenizeOptions {
  std::string source;
  PartOptions parts;
  std::string prompt;
  std::optional<int64_t> max_sequence_length;
};

void warn_if_cut(const TokenIds& tokens, const char* encoder) {
  if (!tokens.truncated) return;
  log_warning("the prompt was cut to the {} tokens that {} takes", tokens.ids.size(), encoder);
}

void run_tokenize(const TokenizeOptions& options) {
  as_usage([&] { check_text("--prompt", options.prompt, true); });
  const auto checkpoint = open_source(options.source, options.parts);
  const FluxConfig& config = checkpoint->config();
  const int length = sequence_length(options.max_sequence_length, config);
  const auto clip = load_clip_tokenizer(checkpoint->layout().place(Component::kTokenizer));
  const auto t5 = load_t5_tokenizer(checkpoint->layout().place(Component::kTokenizer2));
  TokenIds clip_ids{};
  TokenIds t5_ids{};
  as_usage([&] {
    clip_ids = clip.encode(options.prompt);
    t5_ids = t5.encode(options.prompt, length);
  });
  warn_if_cut(clip_ids, "CLIP");
  warn_if_cut(t5_ids, "T5");
  print_out(nlohmann::json{{"clip", clip_ids.ids}, {"t5", t5_ids.ids}}.dump() + "\n");
}

}  // namespace

void add_tokenize(CLI::App& app, Action& run) {
  auto options = std::make_shared<TokenizeOptions>();
  CLI::App* command =
      app.add_subcommand("tokenize", "prints the token ids of a prompt as one JSON object");
  add_source(*command, options->source, options->parts);
  command->add_option("--prompt", options->prompt, "the text")->required()->type_name("TEXT");
  add_integer_option(*command, field_of(&Request::max_sequence_length),
                     options->max_sequence_length);
  add_examples(*command, {"tokenize FLUX.1-dev --prompt \"a red fox\" --max-sequence-length 64"});
  command->callback([options, &run] { run = [options] { run_tokenize(*options); }; });
}

}  // namespace flux::cli

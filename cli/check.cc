#include "cli/common.h"
#include "cli/made_inputs.h"
#include "support/error.h"

namespace flux::cli {
namespace {

constexpr int64_t kPixels = 256;
constexpr const char* kPrompt = "a red circle above a blue square";

/// The output of one stage and what it should look like.
struct StageResult {
  const char* name;
  Tensor value;
  Shape shape;
  DType dtype;
};

StageResult run_stage(StageKind stage, Session& session, const PictureSize& size) {
  const FluxConfig& config = session.checkpoint->config();
  const DType dtype = session.options.dtype;
  LocalStages& stages = *session.stages;
  switch (stage) {
    case StageKind::kClipEncoder:
      return {"pooled_prompt_embeds",
              to_host(stages.context(), stages.encode_clip(kPrompt, nullptr)),
              {config.transformer.pooled_projection_dim},
              dtype};
    case StageKind::kT5Encoder:
      return {"prompt_embeds",
              to_host(stages.context(), stages.encode_t5(kPrompt, size.text_tokens, nullptr)),
              {size.text_tokens, config.transformer.joint_attention_dim},
              dtype};
    case StageKind::kDitTransformer: {
      const TransformerInput input = made_transformer_input(config, dtype, size);
      stages.transformer({&input, 1});
      return {"noise_pred",
              input.noise_pred,
              {input.hidden_states.size(0), config.transformer.out_channels},
              dtype};
    }
    case StageKind::kVaeDecoder:
      return {"image",
              to_host(stages.context(), stages.decode(made_latents(config, dtype, size))),
              {3, size.height, size.width},
              DType::kF32};
  }
  fail(ErrorCode::kInternal, "no such stage");
}

void check_result(const StageResult& result) {
  check(result.value.shape() == result.shape && result.value.dtype() == result.dtype,
        ErrorCode::kInternal, "{} is {}, {}{} is expected", result.name, describe(result.value),
        name_of(result.dtype), to_string(result.shape));
  check(all_finite(result.value), ErrorCode::kInternal, "{} {} holds values that are not finite",
        result.name, describe(result.value));
}

/// Runs one stage; the rest of its line.
std::string stage_report(StageKind stage, Session& session, const PictureSize& size) {
  StageResult result{};
  const double load = seconds_of([&] { session.stages->load(stage); });
  const double seconds = seconds_of([&] { result = run_stage(stage, session, size); });
  check_result(result);
  return fmt::format("{} {}, load {:.3f} s, run {:.3f} s, weights {}, peak {}", result.name,
                     describe(result.value), load, seconds,
                     format_bytes(session.stages->weight_bytes(stage)),
                     format_bytes(peak_memory_bytes()));
}

/// Prints the line of one stage; whether all is well.
bool check_stage(StageKind stage, Session& session, const PictureSize& size) {
  stop_if_interrupted();
  std::string report;
  bool works = true;
  try {
    report = stage_report(stage, session, size);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kCancelled) throw;
    works = false;
    report = one_line(error.what());
  }
  print_out(fmt::format("{:<16} {:<7} {}\n", name_of(stage), works ? "ok" : "FAILED", report));
  return works;
}

void run_check(const ComputeOptions& options) {
  Session session = open_session(options);
  const FluxConfig& config = session.checkpoint->config();
  PictureSize size;
  size.height = drawable_side(kPixels, config);
  size.width = size.height + config.size_multiple();  // not square: a swapped axis shows
  size.text_tokens = sequence_length(std::nullopt, config);
  print_out(fmt::format("{}: {} on {}, {} threads, {}x{}, {} text tokens\n",
                        session.checkpoint->name(), name_of(session.options.dtype),
                        to_string(session.options.device), session.options.threads, size.width,
                        size.height, size.text_tokens));
  int failed = 0;
  for (const StageKind stage : kAllStages) failed += check_stage(stage, session, size) ? 0 : 1;
  check(failed == 0, ErrorCode::kInternal, "{} of {} stages failed", failed, std::size(kAllStages));
}

}  // namespace

void add_check(CLI::App& app, Action& run) {
  auto options = std::make_shared<ComputeOptions>();
  CLI::App* command = app.add_subcommand(
      "check", "runs every stage on inputs it makes itself and says whether it works");
  add_compute_options(*command, *options);
  command->callback([options, &run] { run = [options] { run_check(*options); }; });
}

}  // namespace flux::cli

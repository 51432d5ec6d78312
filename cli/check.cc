#include <algorithm>

#include "cli/common.h"
#include "cli/help.h"
#include "cli/made_inputs.h"
#include "cli/session.h"
#include "models/vae/vae_encoder.h"
#include "pipeline/stage_results.h"
#include "support/error.h"
#include "tensor/format.h"

namespace flux::cli {
namespace {

constexpr int64_t kPixels = 256;
constexpr const char* kPrompt = "a red circle above a blue square";

/// Output of one stage, with the expected shape and dtype.
struct StageResult {
  const char* name;
  ConstTensor value;
  Shape shape;
  DType dtype;
};

StageResult run_clip(Session& session, const ImageSize&) {
  LocalStages& stages = *session.stages;
  return {"pooled_prompt_embeds",
          to_host(stages.context(), stages.encode_clip(kPrompt, nullptr)),
          {session.checkpoint->config().transformer.pooled_projection_dim},
          session.options.dtype};
}

StageResult run_t5(Session& session, const ImageSize& size) {
  LocalStages& stages = *session.stages;
  return {"prompt_embeds",
          to_host(stages.context(), stages.encode_t5(kPrompt, size.text_tokens, nullptr)),
          {size.text_tokens, session.checkpoint->config().transformer.joint_attention_dim},
          session.options.dtype};
}

StageResult run_transformer(Session& session, const ImageSize& size) {
  const FluxConfig& config = session.checkpoint->config();
  const TransformerInput input = made_transformer_input(config, session.options.dtype, size);
  session.stages->transformer({&input, 1});
  const ImageTokens& image = input.images[0];
  return {"noise_pred",
          image.noise_pred,
          {image.hidden_states.size(0), config.transformer.out_channels},
          session.options.dtype};
}

StageResult run_encoder(Session& session, const ImageSize& size) {
  const FluxConfig& config = session.checkpoint->config();
  const Tensor image = made_tensor({3, size.height, size.width}, DType::kF32);
  const int64_t factor = config.vae.scale_factor();
  return {"latents",
          session.stages->encode_image(image, {}).front(),
          {config.vae.latent_channels, size.height / factor, size.width / factor},
          session.options.dtype};
}

StageResult run_decoder(Session& session, const ImageSize& size) {
  LocalStages& stages = *session.stages;
  const Tensor latents = made_latents(session.checkpoint->config(), session.options.dtype, size);
  return {"image",
          to_host(stages.context(), stages.decode(latents)),
          {3, size.height, size.width},
          DType::kF32};
}

/// In the order of StageKind.
constexpr StageResult (*kRuns[])(Session&, const ImageSize&) = {run_clip, run_t5, run_encoder,
                                                                run_transformer, run_decoder};
static_assert(std::size(kRuns) == std::size(kStages));

void check_result(StageKind stage, const StageResult& result) {
  check(result.value.shape() == result.shape && result.value.dtype() == result.dtype,
        ErrorCode::kInternal, "{} is {}, {}{} is expected", result.name, result.value, result.dtype,
        result.shape);
  flux::check_result(name_of(stage), result.name, result.value);
}

/// Runs one stage; returns the rest of its line.
std::string stage_report(StageKind stage, Session& session, const ImageSize& size) {
  StageResult result{};
  const double load = seconds_of([&] { session.stages->load(stage); });
  const double seconds =
      seconds_of([&] { result = kRuns[static_cast<size_t>(stage)](session, size); });
  check_result(stage, result);
  return fmt::format("{} {}, load {:.3f} s, run {:.3f} s, weights {}, peak {}", result.name,
                     result.value, load, seconds, format_bytes(session.stages->weight_bytes(stage)),
                     format_bytes(peak_memory_bytes()));
}

/// Prints the line of one stage; returns whether it works.
bool check_stage(StageKind stage, Session& session, const ImageSize& size) {
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

/// All stages that the checkpoint has weights for.
std::vector<StageKind> stages_of(const Checkpoint& checkpoint) {
  const Family& family = checkpoint.family();
  const bool encoder = has_vae_encoder(checkpoint.weights(Component::kVae));
  std::vector<StageKind> stages;
  for (const StageInfo& stage : kStages) {
    const auto is_in = [&](std::span<const StageKind> kinds) {
      return std::find(kinds.begin(), kinds.end(), stage.kind) != kinds.end();
    };
    const bool there = stage.kind != StageKind::kVaeEncoder || encoder;
    if (is_in(family.stages) || (is_in(family.on_demand) && there)) stages.push_back(stage.kind);
  }
  return stages;
}

void run_check(const ComputeOptions& options) {
  Session session = open_session(options);
  const FluxConfig& config = session.checkpoint->config();
  ImageSize size;
  size.height = allowed_side(kPixels, config);
  size.width = size.height + config.size_multiple();  // not square, so that swapped axes show
  size.text_tokens = sequence_length(std::nullopt, config);
  print_out(fmt::format(
      "{}: {} on {}, {}, {}x{}, {}\n", one_line(session.checkpoint->name()),
      precision_text(name_of(session.options.dtype), name_of(session.options.quantization),
                     name_of(session.options.attention)),
      to_string(session.options.device), counted(session.options.threads, "thread"), size.width,
      size.height, counted(size.text_tokens, "text token")));
  int failed = 0;
  const std::vector<StageKind> stages = stages_of(*session.checkpoint);
  for (const StageKind stage : stages) failed += check_stage(stage, session, size) ? 0 : 1;
  check(failed == 0, ErrorCode::kInvalidArgument, "{} of {} stages failed", failed, stages.size());
}

}  // namespace

void add_check(CLI::App& app, Action& run) {
  auto options = std::make_shared<ComputeOptions>();
  CLI::App* command = app.add_subcommand(
      "check", "runs every stage on inputs it makes itself and says whether it works");
  add_compute_options(*command, *options);
  group_compute_options(*command);
  add_examples(*command, {"check FLUX.1-dev", "check models --device cuda --dtype bf16"});
  command->callback([options, &run] { run = [options] { run_check(*options); }; });
}

}  // namespace flux::cli

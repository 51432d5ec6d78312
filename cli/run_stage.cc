#include <cmath>
#include <map>

#include "cli/common.h"
#include "cli/help.h"
#include "cli/output_files.h"
#include "cli/request_options.h"
#include "cli/session.h"
#include "pipeline/latents.h"
#include "pipeline/request.h"
#include "pipeline/request_fields.h"
#include "pipeline/stage_results.h"
#include "support/error.h"
#include "support/log.h"
#include "tensor/format.h"
#include "weights/safetensors.h"

namespace flux::cli {
namespace {

struct RunStageOptions {
  ComputeOptions compute;
  std::string stage;
  std::string input;
  std::string output;
  std::vector<std::string> prompts;
  std::optional<int64_t> max_sequence_length;
};

using NamedTensor = std::pair<std::string, ConstTensor>;

/// Expected form of one input of a stage. A size of -1 is free; equal letters in `symbols` must
/// have equal sizes.
struct InputSpec {
  const char* name;
  std::vector<int64_t> sizes;
  std::string_view symbols;  // one letter for each dimension, e.g. "BSc"
  enum class Kind { kCompute, kFloat32, kInt64 } kind;
  bool optional = false;
};

std::string expected_shape(const InputSpec& spec) {
  std::string text = "[";
  for (size_t i = 0; i < spec.sizes.size(); ++i) {
    if (i > 0) text += ", ";
    text += spec.sizes[i] < 0 ? std::string(1, spec.symbols[i]) : fmt::format("{}", spec.sizes[i]);
  }
  return text + "]";
}

/// Reads the tensors of an input file, checks them against the specs and converts them.
class StageInputs {
 public:
  StageInputs(const std::string& file, StageKind stage, const std::vector<InputSpec>& specs,
              DType dtype)
      : file_(SafetensorsFile::open(file)), stage_(stage) {
    refuse_unknown(specs);
    for (const InputSpec& spec : specs) {
      if (spec.optional && !is_there(spec)) continue;
      const StoredTensor& found = find(spec);
      check_shape(spec, found.data);
      if (spec.kind == InputSpec::Kind::kInt64) {
        tensors_[spec.name] = in_memory(found).data;
        continue;
      }
      const DType wanted = spec.kind == InputSpec::Kind::kCompute ? dtype : DType::kF32;
      tensors_[spec.name] = decode(found, wanted);
      check(all_finite(tensors_[spec.name]), ErrorCode::kInvalidArgument,
            "{}: tensor '{}' holds values that are not finite in {}", path(), spec.name, wanted);
    }
  }

  const ConstTensor& operator[](const char* name) const { return tensors_.at(name); }
  bool has(const char* name) const { return tensors_.count(name) > 0; }
  std::string path() const { return file_->path().string(); }

 private:
  void refuse_unknown(const std::vector<InputSpec>& specs) const {
    std::vector<std::string> given;
    for (const auto& [name, tensor] : file_->tensors()) given.push_back(name);
    for (const auto& [name, why] : file_->unreadable()) given.push_back(name);
    for (const std::string& name : given) {
      bool known = false;
      std::string names;
      for (const InputSpec& spec : specs) {
        known = known || name == spec.name;
        names += (names.empty() ? "" : ", ") + std::string(spec.name);
      }
      check(known, ErrorCode::kInvalidArgument,
            "{}: tensor '{}' is no input of {} with this model, which takes {}", path(), name,
            name_of(stage_), names);
    }
  }

  bool is_there(const InputSpec& spec) const {
    return file_->tensors().contains(spec.name) || file_->unreadable().contains(spec.name);
  }

  const StoredTensor& find(const InputSpec& spec) const {
    const StoredTensor* found = file_->find(spec.name);
    check(found != nullptr, ErrorCode::kNotFound,
          "{}: tensor '{}' is missing; {} needs it with shape {}", path(), spec.name,
          name_of(stage_), expected_shape(spec));
    const bool integer = spec.kind == InputSpec::Kind::kInt64;
    check(integer ? found->data.dtype() == DType::kI64 : is_floating_point(found->data.dtype()),
          ErrorCode::kInvalidArgument, "{}: tensor '{}' is {}; {} is expected", path(), spec.name,
          found->data, integer ? "i64" : "a floating point dtype");
    return *found;
  }

  void check_shape(const InputSpec& spec, const ConstTensor& found) {
    bool fits = found.rank() == static_cast<int>(spec.sizes.size());
    for (int i = 0; fits && i < found.rank(); ++i) {
      const auto dim = static_cast<size_t>(i);
      const int64_t size = found.size(i);
      // The first tensor that uses a letter sets its size for all.
      const int64_t agreed = free_sizes_.emplace(spec.symbols[dim], size).first->second;
      fits = size >= 1 && size == (spec.sizes[dim] < 0 ? agreed : spec.sizes[dim]);
    }
    check(fits, ErrorCode::kInvalidArgument, "{}: tensor '{}' is {}; {} is expected{}", path(),
          spec.name, found, expected_shape(spec), agreed_sizes());
  }

  std::string agreed_sizes() const {
    std::string text;
    for (const auto& [letter, size] : free_sizes_) {
      if (letter >= 'A' && letter <= 'Z') text += fmt::format(", {} = {}", letter, size);
    }
    return text.empty() ? text : " (" + text.substr(2) + ")";
  }

  std::unique_ptr<const SafetensorsFile> file_;
  StageKind stage_;
  std::map<char, int64_t> free_sizes_;
  std::map<std::string, ConstTensor, std::less<>> tensors_;
};

std::vector<InputSpec> transformer_inputs(const FluxTransformerConfig& config) {
  using Kind = InputSpec::Kind;
  std::vector<InputSpec> specs = {
      {"hidden_states", {-1, -1, config.in_channels}, "BSc", Kind::kCompute},
      {"timestep", {-1, 1}, "B1", Kind::kFloat32},
      {"pooled_projections", {-1, config.pooled_projection_dim}, "Bp", Kind::kCompute},
      {"encoder_hidden_states", {-1, -1, config.joint_attention_dim}, "BTj", Kind::kCompute},
      {"img_ids", {-1, -1, 3}, "BS3", Kind::kFloat32},
      {"txt_ids", {-1, -1, 3}, "BT3", Kind::kFloat32},
  };
  if (config.guidance_embeds) {
    specs.push_back({"guidance", {-1, 1}, "B1", Kind::kFloat32});
  }
  return specs;
}

NamedTensor run_transformer(Session& session, const RunStageOptions& options) {
  const FluxTransformerConfig& config = session.checkpoint->config().transformer;
  const StageInputs in(options.input, StageKind::kDitTransformer, transformer_inputs(config),
                       session.options.dtype);
  const ConstTensor& hidden_states = in["hidden_states"];
  const int64_t batch = hidden_states.size(0);
  const Tensor out =
      Tensor::allocate({batch, hidden_states.size(1), config.out_channels}, session.options.dtype);
  std::vector<TransformerInput> rows(static_cast<size_t>(batch));
  for (int64_t i = 0; i < batch; ++i) {
    TransformerInput& row = rows[static_cast<size_t>(i)];
    const float timestep = in["timestep"].data<float>()[i];
    check(timestep >= 0 && timestep <= 1, ErrorCode::kInvalidArgument,
          "{}: timestep {} of row {}: must be in [0, 1], as FluxPipeline passes it", in.path(),
          timestep, i);
    row.clock = StepClock::single(timestep);
    if (config.guidance_embeds) row.guidance = in["guidance"].data<float>()[i];
    row.pooled_projections = in["pooled_projections"][i];
    row.encoder_hidden_states = in["encoder_hidden_states"][i];
    row.txt_ids = in["txt_ids"][i];
    row.images = {{hidden_states[i], in["img_ids"][i], out[i]}};
  }
  session.stages->transformer(rows);
  return {"noise_pred", out};
}

NamedTensor run_encoder(Session& session, const RunStageOptions& options) {
  const VaeConfig& config = session.checkpoint->config().vae;
  const StageInputs in(
      options.input, StageKind::kVaeEncoder,
      {{"image", {-1, config.in_channels, -1, -1}, "BcHW", InputSpec::Kind::kFloat32},
       {"seed", {-1, 1}, "B1", InputSpec::Kind::kInt64, true}},
      session.options.dtype);
  const ConstTensor& images = in["image"];
  const int64_t factor = config.scale_factor();
  const Shape size{images.size(0), config.latent_channels, images.size(2) / factor,
                   images.size(3) / factor};
  check(images.size(2) % factor == 0 && images.size(3) % factor == 0, ErrorCode::kInvalidArgument,
        "{}: tensor 'image' is {}: height and width must be multiples of {}", in.path(), images,
        factor);
  const Tensor latents = Tensor::allocate(size, session.options.dtype);
  for (int64_t i = 0; i < images.size(0); ++i) {
    stop_if_interrupted();
    std::vector<PosteriorDraw> draws;
    if (in.has("seed")) {
      const int64_t seed = in["seed"].data<int64_t>()[i];
      check(seed >= 0, ErrorCode::kInvalidArgument, "{}: seed {} of row {}: must be 0 or more",
            in.path(), seed, i);
      draws.push_back({static_cast<uint64_t>(seed)});
    }
    copy_convert(session.stages->encode_image(images[i], draws).front(), latents[i]);
  }
  return {"latents", latents};
}

NamedTensor run_decoder(Session& session, const RunStageOptions& options) {
  const int64_t channels = session.checkpoint->config().vae.latent_channels;
  const StageInputs in(options.input, StageKind::kVaeDecoder,
                       {{"latents", {-1, channels, -1, -1}, "BcHW", InputSpec::Kind::kCompute}},
                       session.options.dtype);
  const ConstTensor& latents = in["latents"];
  Tensor images;
  for (int64_t i = 0; i < latents.size(0); ++i) {
    stop_if_interrupted();
    const ConstTensor image =
        to_host(session.stages->context(), session.stages->decode(latents[i]));
    if (!images.defined()) {
      images = Tensor::allocate({latents.size(0), image.size(0), image.size(1), image.size(2)},
                                DType::kF32);
    }
    copy_convert(image, images[i]);
  }
  return {"image", images};
}

NamedTensor run_text_encoder(Session& session, const RunStageOptions& options, StageKind stage) {
  const bool clip = stage == StageKind::kClipEncoder;
  const int length = sequence_length(options.max_sequence_length, session.checkpoint->config());
  std::vector<ConstTensor> rows;
  for (const std::string& prompt : options.prompts) {
    stop_if_interrupted();
    bool truncated = false;
    const ConstTensor row = clip ? session.stages->encode_clip(prompt, &truncated)
                                 : session.stages->encode_t5(prompt, length, &truncated);
    rows.push_back(to_host(session.stages->context(), row));
    if (truncated) {
      log_warning("prompt {} was cut to what {} takes", rows.size() - 1, name_of(stage));
    }
  }
  const Shape& row = rows.front().shape();
  const auto batch = static_cast<int64_t>(rows.size());
  const Tensor out = Tensor::allocate(
      row.rank() == 1 ? Shape{batch, row[0]} : Shape{batch, row[0], row[1]}, rows.front().dtype());
  for (int64_t i = 0; i < batch; ++i) copy_convert(rows[static_cast<size_t>(i)], out[i]);
  return {clip ? "pooled_prompt_embeds" : "prompt_embeds", out};
}

void check_options(const RunStageOptions& options, StageKind stage) {
  const bool text = stage == StageKind::kClipEncoder || stage == StageKind::kT5Encoder;
  const auto refuse = [&](const char* what) {
    throw UsageError(fmt::format("{} {}", name_of(stage), what));
  };
  if (text && options.prompts.empty()) refuse("needs --prompt TEXT");
  if (text && !options.input.empty()) refuse("takes --prompt TEXT, not --input");
  if (!text && options.input.empty()) refuse("needs --input FILE.safetensors");
  if (!text && !options.prompts.empty()) refuse("takes --input FILE.safetensors, not --prompt");
  if (stage != StageKind::kT5Encoder && options.max_sequence_length) {
    refuse("takes no --max-sequence-length");
  }
  as_usage([&] {
    for (const std::string& prompt : options.prompts) check_text("--prompt", prompt, true);
  });
  const OutputFile output{"--output", options.output};
  check_safetensors_name(output);
  check_output_files({output});
}

void run_run_stage(const RunStageOptions& options) {
  StageKind stage{};
  as_usage([&] { stage = parse_stage(options.stage); });
  check_options(options, stage);
  Session session = open_session(options.compute);
  NamedTensor output;
  const double seconds = seconds_of([&] {
    output = stage == StageKind::kDitTransformer ? run_transformer(session, options)
             : stage == StageKind::kVaeEncoder   ? run_encoder(session, options)
             : stage == StageKind::kVaeDecoder   ? run_decoder(session, options)
                                                 : run_text_encoder(session, options, stage);
  });
  check_result(name_of(stage), output.first, output.second);
  write_safetensors(options.output, {output});
  print_out(fmt::format("{}: {} {} in {:.3f} s, written to {}\n", name_of(stage), output.first,
                        output.second, seconds, one_line(options.output)));
}

}  // namespace

void add_run_stage(CLI::App& app, Action& run) {
  auto options = std::make_shared<RunStageOptions>();
  CLI::App* command =
      app.add_subcommand("run-stage", "runs one model alone on tensors from a file");
  add_compute_options(*command, options->compute);
  command
      ->add_option("STAGE", options->stage,
                   "clip_encoder, t5_encoder, vae_encoder, dit_transformer or vae_decoder")
      ->required();
  command
      ->add_option(
          "--input", options->input,
          "tensors with a leading batch dimension, in any floating point dtype; "
          "dit_transformer: hidden_states, timestep, guidance (where the model has it), "
          "pooled_projections, encoder_hidden_states, img_ids, txt_ids; "
          "vae_encoder: image, seed (i64, for a sample; else the mean); vae_decoder: latents")
      ->type_name("FILE.safetensors");
  command->add_option("--output", options->output, "the file to write")
      ->type_name("FILE.safetensors")
      ->required();
  command
      ->add_option("--prompt", options->prompts,
                   "the input of a text encoder; repeat it for more rows")
      ->allow_extra_args(false)
      ->type_name("TEXT");
  add_integer_option(*command, field_of(&Request::max_sequence_length),
                     options->max_sequence_length);
  group_compute_options(*command);
  group_options(*command, kOutputGroup, {"--output"});
  add_examples(
      *command,
      {"run-stage FLUX.1-dev t5_encoder --prompt \"a red fox\" --output embeds.safetensors",
       "run-stage models dit_transformer --input step.safetensors --output noise.safetensors"});
  command->callback([options, &run] { run = [options] { run_run_stage(*options); }; });
}

}  // namespace flux::cli

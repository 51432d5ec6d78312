/// What a precision costs in the transformer, block by block: the relative errors of what its
/// modules put out, to a reference precision, from the same inputs of normal numbers.
///
///   transformer_errors CHECKPOINT [--dtype bf16] [--reference none/bf16] [--alone] (see --help)
///
/// An error is the root of the sum of squared differences over the root of the sum of squares of
/// the reference: `whole` of all tokens, `worst` of the token whose own is largest, `row`. Errors
/// add up from block to block; with --alone each block has the input that it has in the reference.

#include <algorithm>
#include <cmath>

#include "cli/common.h"
#include "cli/made_inputs.h"
#include "convert/repository_layout.h"
#include "layers/rope.h"
#include "models/flux1/transformer.h"
#include "ops/registry.h"
#include "pipeline/request.h"
#include "support/default_threads.h"
#include "support/error.h"
#include "support/filesystem_error.h"
#include "support/log.h"

namespace flux::bench {
namespace {

struct Options {
  std::string source;
  PartOptions parts;
  std::string device = "auto";
  std::string dtype = "bf16";
  std::string reference = "none/bf16";
  int64_t height = 512;
  int64_t width = 512;
  int64_t tokens = 512;
  float timestep = 0.5f;
  int threads = 0;
  bool alone = false;
};

/// A column of the table.
struct Compared {
  const char* name;
  Quantization quantization;
  AttentionPrecision attention;
};

constexpr Compared kCompared[] = {
    {"none", Quantization::kNone, AttentionPrecision::kSame},
    {"fp8", Quantization::kFp8, AttentionPrecision::kSame},
    {"fp8-attention", Quantization::kFp8, AttentionPrecision::kFp8},
};

struct RelativeError {
  double whole = 0;
  double worst = 0;  // of a row
  int64_t row = 0;   // the worst
};

/// A line of the table: a traced value in the reference, and its errors in the other precisions.
struct Line {
  std::string name;
  Tensor reference;  // [rows, features], T, host memory
  std::vector<RelativeError> errors;
};

/// The transformer of a checkpoint, and what it is called with.
struct Subject {
  std::shared_ptr<const Checkpoint> checkpoint;
  Backend* backend;
  int threads;
  TransformerInput input;

  const FluxTransformerConfig& config() const { return checkpoint->config().transformer; }
  Loader loader(Context& ctx, const Precision& precision) const {
    return {ctx, checkpoint->weights(Component::kTransformer), precision};
  }
};

double ratio_of_roots(double differences, double squares) {
  return differences == 0 ? 0 : std::sqrt(differences / squares);
}

RelativeError relative_error(const ConstTensor& found, const ConstTensor& reference) {
  const Tensor x = to_dtype(found, DType::kF32);
  const Tensor y = to_dtype(reference, DType::kF32);
  const int64_t features = y.size(1);
  RelativeError error;
  double all_differences = 0;
  double all_squares = 0;
  for (int64_t row = 0; row < y.size(0); ++row) {
    double differences = 0;
    double squares = 0;
    for (int64_t i = row * features; i < (row + 1) * features; ++i) {
      const double value = y.data<float>()[i];
      const double difference = x.data<float>()[i] - value;
      differences += difference * difference;
      squares += value * value;
    }
    const double own = ratio_of_roots(differences, squares);
    if (!std::isnan(error.worst) && !(own <= error.worst)) {
      error.worst = own;
      error.row = row;
    }
    all_differences += differences;
    all_squares += squares;
  }
  error.whole = ratio_of_roots(all_differences, all_squares);
  return error;
}

/// One step of the transformer in `precision`: hands out what it traces, and its result.
void run_model(const Subject& subject, const Precision& precision, const Context::Trace& take) {
  Context ctx(*subject.backend, subject.threads);
  const FluxTransformer model(subject.loader(ctx, precision), subject.config());
  ctx.set_trace(take);
  model.forward(ctx, {&subject.input, 1});
  finish(ctx);
  take("noise_pred", subject.input.images[0].noise_pred);
}

/// The blocks of the transformer, each of which has the input that it has in the reference.
class LoneBlocks {
 public:
  LoneBlocks(const Subject& subject, const Precision& precision, const std::vector<Line>& lines)
      : subject_(subject),
        precision_(precision),
        lines_(lines),
        ctx_(*subject.backend, subject.threads) {}

  /// Hands out the results of all blocks, under the names that the whole model gives them.
  void run(const Context::Trace& take) {
    const Workspace::Scope scope(ctx_.workspace());
    const FluxTransformerConfig& config = subject_.config();
    const Loader load = subject_.loader(ctx_, precision_);
    make_batch();
    for (int64_t i = 0; i < config.num_layers; ++i) {
      const FluxTransformerBlock block(load / "transformer_blocks" / i, config, 0);
      forward(block);
      hand_out(fmt::format("transformer_blocks.{}", i), true, take);
    }
    for (int64_t i = 0; i < config.num_single_layers; ++i) {
      using Update = FluxSingleTransformerBlock::Update;
      const bool last = i + 1 == config.num_single_layers;
      const FluxSingleTransformerBlock block(load / "single_transformer_blocks" / i, config, 0);
      forward(block, last ? Update::kImage : Update::kAll);
      hand_out(fmt::format("single_transformer_blocks.{}", i), !last, take);
    }
  }

 private:
  const Tensor& reference(std::string_view name) const {
    const auto found = std::find_if(lines_.begin(), lines_.end(),
                                    [&](const Line& line) { return line.name == name; });
    check(found != lines_.end(), ErrorCode::kInternal, "{} is not traced", name);
    return found->reference;
  }

  /// The input of the first block.
  void make_batch() {
    const Tensor& text = reference("context_embedder");
    const Tensor& image = reference("x_embedder");
    const Tensor& embedded = reference("time_text_embed");
    const int64_t tokens = text.size(0) + image.size(0);
    Workspace& workspace = ctx_.workspace();
    const Tensor conditioning = workspace.allocate(embedded.shape(), embedded.dtype());
    copy(ctx_, embedded, conditioning);
    activate(ctx_, conditioning, Activation::kSilu, conditioning);
    batch_.hidden = workspace.allocate({tokens, text.size(1)}, text.dtype());
    batch_.sequences = {{0, text.size(0), tokens, {conditioning}}};
    batch_.rope = make_rope_table(ctx_, {subject_.input.txt_ids, subject_.input.images[0].img_ids},
                                  subject_.config().axes_dims_rope);
    if (precision_.quantization == Quantization::kFp8) {
      batch_.value_scales = workspace.allocate({1, 1}, DType::kF32);
    }
    copy(ctx_, text, batch_.sequences[0].text_rows(batch_.hidden));
    copy(ctx_, image, batch_.sequences[0].image_rows(batch_.hidden));
  }

  template <typename Block, typename... Update>
  void forward(const Block& block, Update... update) {
    JointBatch batch = batch_;
    if (block.takes_e4m3()) {
      const float zero = 0.0f;
      copy(ctx_, ConstTensor(&zero, DType::kF32, {1, 1}), batch.value_scales);
    } else {
      batch.value_scales = {};
    }
    block.forward(ctx_, batch, 0, update...);
  }

  /// Hands out what a block made of the batch, and puts the reference's in its place.
  void hand_out(const std::string& block, bool text, const Context::Trace& take) {
    const auto exchange = [&](const std::string& name, const Tensor& rows) {
      take(name, to_host(ctx_, rows));
      copy(ctx_, reference(name), rows);
    };
    const JointSequence& sequence = batch_.sequences[0];
    if (text) exchange(block + ".0", sequence.text_rows(batch_.hidden));
    exchange(block + ".1", sequence.image_rows(batch_.hidden));
  }

  const Subject& subject_;
  Precision precision_;
  const std::vector<Line>& lines_;
  Context ctx_;
  JointBatch batch_;
};

std::vector<Line> run_reference(const Subject& subject, const Precision& precision) {
  std::vector<Line> lines;
  run_model(subject, precision, [&](std::string_view name, const ConstTensor& value) {
    lines.push_back({std::string(name), to_dtype(value, value.dtype()), {}});
  });
  return lines;
}

/// Adds the errors of a precision to the lines of what it computes.
void compare(const Subject& subject, const Precision& precision, bool alone,
             std::vector<Line>& lines) {
  size_t next = 0;
  const auto take = [&](std::string_view name, const ConstTensor& value) {
    while (next < lines.size() && lines[next].name != name) ++next;
    check(next < lines.size(), ErrorCode::kInternal, "{} is not traced in the reference", name);
    Line& line = lines[next++];
    line.errors.push_back(relative_error(value, line.reference));
  };
  if (alone) {
    LoneBlocks(subject, precision, lines).run(take);
  } else {
    run_model(subject, precision, take);
  }
}

std::string table_text(const std::vector<Line>& lines, const std::vector<Compared>& columns) {
  std::string names(32, ' ');
  std::string heads = fmt::format("{:<32}", "output");
  for (const Compared& column : columns) {
    names += fmt::format("{:>30}", column.name);
    heads += fmt::format("{:>12}{:>12}{:>6}", "whole", "worst", "row");
  }
  std::string text = fmt::format("{}\n{}\n", names, heads);
  for (const Line& line : lines) {
    if (line.errors.empty()) continue;  // it is of no block
    text += fmt::format("{:<32}", line.name);
    for (const RelativeError& error : line.errors) {
      text += fmt::format("{:>12.3e}{:>12.3e}{:>6}", error.whole, error.worst, error.row);
    }
    text += "\n";
  }
  return text;
}

/// QUANTIZATION/ATTENTION.
Precision parse_precision(std::string_view text, DType dtype) {
  const size_t slash = text.find('/');
  check(slash != text.npos, ErrorCode::kInvalidArgument,
        "--reference is '{}': must be QUANTIZATION/ATTENTION, such as none/bf16", text);
  return {dtype, parse_quantization(text.substr(0, slash)),
          parse_attention(text.substr(slash + 1))};
}

/// The image that is asked for, if the checkpoint has such.
cli::ImageSize checked_size(const Options& options, const FluxConfig& config) {
  Request request;
  request.prompt = "a size";
  request.height = options.height;
  request.width = options.width;
  request.max_sequence_length = options.tokens;
  const ImageParams params = validate(request, config, limits_for(config));
  return {params.height, params.width, params.max_sequence_length};
}

void run(const Options& options) {
  Subject subject;
  Precision reference;
  cli::as_usage([&] {
    reference = parse_precision(options.reference, parse_compute_dtype(options.dtype));
    check(options.timestep >= 0 && options.timestep <= 1, ErrorCode::kInvalidArgument,
          "--timestep is {}: must be a number from 0 to 1", options.timestep);
    subject.backend = &backend_for(parse_device(options.device));
  });
  subject.threads = options.threads > 0 ? options.threads : default_threads();
  subject.checkpoint = open_source(options.source, options.parts);
  const FluxConfig& config = subject.checkpoint->config();
  cli::ImageSize size;
  cli::as_usage([&] { size = checked_size(options, config); });
  subject.input = cli::made_transformer_input(config, reference.activations, size);
  subject.input.clock = StepClock::single(options.timestep);

  subject.backend->require(reference);
  std::vector<Line> lines = run_reference(subject, reference);
  std::vector<Compared> columns;
  for (const Compared& column : kCompared) {
    const Precision precision{reference.activations, column.quantization, column.attention};
    if (precision.quantization == reference.quantization &&
        precision.attention == reference.attention) {
      continue;
    }
    subject.backend->require(precision);
    compare(subject, precision, options.alone, lines);
    columns.push_back(column);
  }
  cli::print_out(fmt::format(
      "{}: relative errors{} to {} on {}, {}x{}, {}, timestep {}\n{}", subject.checkpoint->name(),
      options.alone ? " of each block alone" : "",
      cli::precision_text(name_of(reference.activations), name_of(reference.quantization),
                          name_of(reference.attention)),
      to_string(subject.backend->device()), size.width, size.height,
      cli::counted(size.text_tokens, "text token"), options.timestep, table_text(lines, columns)));
}

void add_options(CLI::App& app, Options& options) {
  const auto add = [&](const char* name, auto& value, const char* what) {
    return app.add_option(name, value, what)->capture_default_str();
  };
  cli::add_source(app, options.source, options.parts);
  add("--device", options.device, "auto, cpu or cuda[:N]")->type_name("DEVICE");
  add("--dtype", options.dtype, "f32 or bf16 to compute in")->type_name("DTYPE");
  add("--reference", options.reference,
      "quantization (none, fp8) and attention (bf16, fp8) that the others are compared with")
      ->type_name("QUANTIZATION/ATTENTION");
  add("--height", options.height, "pixels")->transform(cli::whole_number())->type_name("N");
  add("--width", options.width, "pixels")->transform(cli::whole_number())->type_name("N");
  add("--tokens,--max-sequence-length", options.tokens, "text tokens")
      ->transform(cli::whole_number())
      ->type_name("N");
  add("--timestep", options.timestep, "of the step, 0 to 1")->type_name("NUMBER");
  add("--threads", options.threads, "CPU threads; 0: one for each physical core")
      ->check(CLI::Range(0, 1024))
      ->type_name("N");
  app.add_flag("--alone", options.alone,
               "give each block the reference's input, so that errors do not add up");
}

int report(int code, std::string_view kind, std::string_view message) {
  fmt::print(stderr, "transformer_errors: {}: {}\n", kind, cli::one_line(message));
  return code;
}

int guarded_main(int argc, char** argv) {
  CLI::App app("Prints what fp8 costs in a FLUX.1 transformer, block by block.",
               "transformer_errors");
  try {
    Options options;
    add_options(app, options);
    app.parse(argc, argv);
    run(options);
    return cli::kDone;
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    return report(cli::kWrongUsage, "error", std::string(error.what()) + "; see --help");
  } catch (const cli::UsageError& error) {
    return report(cli::kWrongUsage, "error", error.what());
  } catch (const Error& error) {
    return report(cli::kFailed, "error", report_of(error));
  } catch (const std::filesystem::filesystem_error& error) {
    return report(cli::kFailed, "error", as_error(error).what());
  } catch (const std::exception& error) {
    return report(cli::kFailed, "error", error.what());
  }
}

}  // namespace
}  // namespace flux::bench

int main(int argc, char** argv) {
  flux::set_log_sink([](flux::LogLevel level, std::string_view message) {
    if (level == flux::LogLevel::kWarning) flux::bench::report(0, "warning", message);
  });
  return flux::bench::guarded_main(argc, argv);
}

#include "triton/stage_models.h"

#include <algorithm>
#include <list>
#include <optional>

#include "models/dit_transformer.h"
#include "models/vae_decoder.h"
#include "models/vae_tiling.h"
#include "ops/registry.h"
#include "pipeline/stages.h"
#include "pipeline/text_stages.h"
#include "support/log.h"
#include "triton/errors.h"
#include "triton/options.h"

namespace flux::triton {
namespace {

/// A request of an execution, and why it cannot be answered.
struct Job {
  Request* request;
  std::exception_ptr error;

  /// Does a part of the work, if nothing has gone wrong before.
  template <typename Work>
  void attempt(Work&& work) {
    if (error) return;
    try {
      work(*request);
    } catch (...) {
      error = std::current_exception();
    }
  }

  /// Whether it failed as it does where memory runs out.
  bool was_unavailable() const {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const Error& known) {
      return known.code() == ErrorCode::kUnavailable;
    } catch (...) {
      return false;
    }
    return false;
  }
};

/// A model of one stage: what it does with requests. Whatever happens to one of them, the others of
/// its execution are answered as if they were alone.
class StageModel : public ServedModel {
 public:
  using ServedModel::ServedModel;

  void execute(InstanceState& instance,
               std::span<const std::unique_ptr<Request>> requests) const final {
    Execution execution;
    const size_t at_once = computes_together() ? requests.size() : 1;
    for (size_t i = 0; i < requests.size(); i += at_once) {
      answer(instance, requests.subspan(i, at_once), execution);
    }
    instance.context().set_cancel_check({});
    if (execution.rows == 0) return;
    report_batch(instance.handle(), execution.rows, execution.start, execution.start,
                 execution.last);
  }

 protected:
  /// Whether all requests of an execution are computed at once, by run_together(). Otherwise they
  /// are one after another, and each is answered before the next one begins.
  virtual bool computes_together() const { return false; }
  /// Computes all rows of a request into its outputs.
  virtual void run(InstanceState& instance, Request& request) const = 0;
  /// Computes the jobs that have no error yet. Returns a point shortly before the end of that, or
  /// null.
  virtual std::shared_ptr<const Fence> run_together(InstanceState& instance,
                                                    std::span<Job> jobs) const {
    for (Job& job : jobs) job.attempt([&](Request& request) { run(instance, request); });
    return nullptr;
  }

 private:
  struct Execution {
    uint64_t start = now_ns();
    uint64_t last = start;
    int64_t rows = 0;
  };

  void answer(InstanceState& instance, std::span<const std::unique_ptr<Request>> requests,
              Execution& execution) const {
    Context& ctx = instance.context();
    std::vector<Job> jobs;
    for (const auto& request : requests) {
      jobs.push_back({request.get(), {}});
      jobs.back().attempt([&](Request& read) {
        read.read(ctx);
        check_still_wanted(read);
      });
    }
    ctx.set_cancel_check([&jobs] {
      return std::all_of(jobs.begin(), jobs.end(),
                         [](const Job& job) { return job.error || job.request->stopped(); });
    });
    const uint64_t begin = compute(instance, jobs);
    execution.last = now_ns();
    metrics().add(Counter::kStageSeconds, static_cast<double>(execution.last - begin) * 1e-9);
    for (const Job& job : jobs) {
      if (job.error) {
        refuse(instance.handle(), *job.request, job.error, execution.start);
        continue;
      }
      count(*job.request, execution.rows == 0);
      execution.rows += job.request->rows();
      job.request->send(instance.handle(), execution.start, begin, execution.last);
    }
  }

  /// Returns when it began, which was as soon as the CPU was free; a GPU takes turns by itself.
  uint64_t compute(InstanceState& instance, std::span<Job> jobs) const {
    std::optional<CpuTurn> turn;
    if (settings().device.is_cpu()) turn.emplace();
    const uint64_t begin = now_ns();
    const std::shared_ptr<const Fence> nearly_done = run_together(instance, jobs);
    end(instance.context(), jobs, nearly_done.get());
    const auto any = [&](const auto& is) { return std::any_of(jobs.begin(), jobs.end(), is); };
    if (any([](const Job& job) { return job.error != nullptr; })) {
      let_go(instance.context(), any([](const Job& job) { return job.was_unavailable(); }));
    }
    return begin;
  }

  /// The one place where a stage waits for its GPU: who gets an answer may read it at once. Where
  /// everybody knows to wait for the end, it is enough that it is near.
  static void end(Context& ctx, std::span<Job> jobs, const Fence* nearly_done) {
    const bool early =
        nearly_done != nullptr && std::all_of(jobs.begin(), jobs.end(), [](const Job& job) {
          return !job.error && job.request->can_hand_over();
        });
    std::shared_ptr<const Fence> done;
    for (Job& job : jobs) {
      job.attempt([&](Request& request) {
        if (!early) return request.finish_outputs();
        if (done == nullptr) done = make_fence(ctx);
        nearly_done->wait();
        request.hand_over(done);
      });
    }
  }

  /// A failed request must not be answered while a GPU still works on its tensors, nor keep what it
  /// took before memory ran out: others have to go on.
  static void let_go(Context& ctx, bool with_memory) {
    try {
      finish(ctx);
      if (!with_memory) return;
      ctx.workspace().release();
      ctx.memory().release();
    } catch (const std::exception& error) {
      log_warning("after a failed request: {}", error.what());
    }
  }

  /// Before the answer goes out: who has it finds it counted.
  void count(const Request& request, bool first_of_batch) const {
    metrics().add(Counter::kStageRows, static_cast<double>(request.rows()));
    metrics().add(Counter::kBytesCopied, static_cast<double>(request.copied_bytes()));
    if (first_of_batch) metrics().add(Counter::kStageBatches, 1);
  }

  static void check_still_wanted(const Request& request) {
    check(!request.deadline_passed(), ErrorCode::kUnavailable,
          "the request's timeout passed before the stage began");
    check(!request.stopped(), ErrorCode::kCancelled, "cancelled before the stage began");
  }
};

/// A context for packing weights while a model loads.
Context loading_context(const ModelSettings& settings) {
  Backend& backend = backend_for(settings.device);
  backend.require(settings.dtype);
  return Context(backend, static_cast<int>(options().threads));
}

/// A text encoder: `Stage` is ClipStage or T5Stage, which differ in what they read and in the shape
/// of what they give.
template <typename Stage, typename Config>
class TextModel : public StageModel {
 public:
  TextModel(const ModelSettings& settings, const Config& config, const char* weights,
            const char* tokenizer, const char* output)
      : StageModel(settings), config_(config), output_(output) {
    Context ctx = loading_context(settings);
    const auto files = WeightFiles::open(settings.directory / weights, "model");
    stage_ = std::make_unique<Stage>(ctx, config_, *files, settings.directory / tokenizer,
                                     settings.dtype);
  }

 protected:
  void run(InstanceState& instance, Request& request) const final {
    Context& ctx = instance.context();
    const std::vector<std::string> prompts = request.strings("prompt");
    const Tensor embeds = request.output(output_, settings().dtype, output_shape(request));
    bool truncated = false;
    for (size_t row = 0; row < prompts.size(); ++row) {
      truncated |= stage_->encode(ctx, prompts[row], embeds[static_cast<int64_t>(row)]);
    }
    if (!truncated) return;
    log_warning("{}: request '{}': a prompt was longer than the encoder takes and was cut",
                settings().name, request.id());
    request.set_flag("truncated");
  }

  virtual Shape output_shape(const Request& request) const = 0;
  const Config& config() const { return config_; }

 private:
  Config config_;
  const char* output_;
  std::unique_ptr<const Stage> stage_;
};

class ClipModel final : public TextModel<ClipStage, ClipConfig> {
 public:
  explicit ClipModel(const ModelSettings& settings)
      : TextModel(settings, load_clip_config(settings.directory / "text_encoder" / "config.json"),
                  "text_encoder", "tokenizer", "pooled_prompt_embeds") {}

 protected:
  Shape output_shape(const Request& request) const override {
    return {request.rows(), config().hidden_size};
  }
};

class T5Model final : public TextModel<T5Stage, T5Config> {
 public:
  explicit T5Model(const ModelSettings& settings)
      : TextModel(settings, load_t5_config(settings.directory / "text_encoder_2" / "config.json"),
                  "text_encoder_2", "tokenizer_2", "prompt_embeds"),
        default_length_(settings.integer_parameter("default_max_sequence_length")) {
    check(default_length_ >= 1 && default_length_ <= kLongest, ErrorCode::kInvalidArgument,
          "model '{}': parameter 'default_max_sequence_length' of config.pbtxt is {}: must be from "
          "1 to {}",
          settings.name, default_length_, kLongest);
  }

 protected:
  Shape output_shape(const Request& request) const override {
    return {request.rows(), sequence_length(request), config().d_model};
  }

 private:
  static constexpr int64_t kLongest = 512;

  int64_t sequence_length(const Request& request) const {
    if (!request.has_input("max_sequence_length")) return default_length_;
    const std::vector<int64_t> lengths = request.integers("max_sequence_length");
    for (const int64_t length : lengths) {
      check(length >= 1 && length <= kLongest, ErrorCode::kInvalidArgument,
            "max_sequence_length is {}: must be from 1 to {}", length, kLongest);
      check(length == lengths[0], ErrorCode::kInvalidArgument,
            "max_sequence_length differs between rows ({} and {}): send them as two requests",
            lengths[0], length);
    }
    return lengths[0];
  }

  int64_t default_length_;
};

class DitModel final : public StageModel {
 public:
  explicit DitModel(const ModelSettings& settings)
      : StageModel(settings),
        config_(load_transformer_config(settings.directory / "transformer" / "config.json")) {
    Context ctx = loading_context(settings);
    const auto files =
        WeightFiles::open(settings.directory / "transformer", "diffusion_pytorch_model");
    model_ = std::make_unique<DitTransformer>(ctx, config_, *files, settings.dtype);
  }

 protected:
  /// On a GPU; on a CPU the first to be done would have to wait for the others.
  bool computes_together() const override { return !settings().device.is_cpu(); }

  void run(InstanceState& instance, Request& request) const override {
    const Rows rows = prepare(request);
    forward(instance, rows.inputs);
  }

  std::shared_ptr<const Fence> run_together(InstanceState& instance,
                                            std::span<Job> jobs) const override {
    std::list<Rows> prepared;  // spans of timesteps point into it
    std::vector<TransformerInput> all;
    for (Job& job : jobs) {
      job.attempt([&](Request& request) {
        const Rows& rows = prepared.emplace_back(prepare(request));
        all.insert(all.end(), rows.inputs.begin(), rows.inputs.end());
      });
    }
    if (all.empty()) return nullptr;
    std::shared_ptr<const Fence> nearly_done;
    try {
      forward(instance, all, &nearly_done);
    } catch (const std::exception&) {
      nearly_done = nullptr;
      // Whose fault it was, each finds out alone.
      auto rows = prepared.begin();
      for (Job& job : jobs) {
        job.attempt([&](Request&) { forward(instance, rows++->inputs); });
      }
    }
    return nearly_done;
  }

 private:
  /// The rows of a request.
  struct Rows {
    std::vector<float> timesteps;  // of all steps
    std::vector<TransformerInput> inputs;
  };

  Rows prepare(Request& request) const {
    const DType dtype = settings().dtype;
    const int64_t image[] = {-1, config_.in_channels};
    const int64_t text[] = {-1, config_.joint_attention_dim};
    const int64_t pooled_size[] = {config_.pooled_projection_dim};
    const int64_t ids[] = {-1, 3};
    const Tensor hidden = request.tensor("hidden_states", dtype, image);
    const Tensor encoder = request.tensor("encoder_hidden_states", dtype, text);
    const Tensor pooled = request.tensor("pooled_projections", dtype, pooled_size);
    const Tensor img_ids = request.tensor("img_ids", DType::kF32, ids);
    const Tensor txt_ids = request.tensor("txt_ids", DType::kF32, ids);
    expect_rows("img_ids", img_ids, "hidden_states", hidden);
    expect_rows("txt_ids", txt_ids, "encoder_hidden_states", encoder);
    const std::vector<double> timesteps = read_timesteps(request);
    const std::vector<double> guidance = read_guidance(request);
    const Tensor noise_pred = request.output("noise_pred", dtype, hidden.shape());
    Rows rows{read_all_timesteps(request), {}};
    for (int64_t row = 0; row < request.rows(); ++row) {
      const auto at = static_cast<size_t>(row);
      TransformerInput& input = rows.inputs.emplace_back();
      input.hidden_states = hidden[row];
      input.timestep = static_cast<float>(timesteps[at]);
      if (!guidance.empty()) input.guidance = static_cast<float>(guidance[at]);
      input.pooled_projections = pooled[row];
      input.encoder_hidden_states = encoder[row];
      input.img_ids = img_ids[row];
      input.txt_ids = txt_ids[row];
      input.noise_pred = noise_pred[row];
      // On a CPU a step is long beside its modulations.
      if (!settings().device.is_cpu()) input.timesteps = rows.timesteps;
    }
    return rows;
  }

  static void expect_rows(const char* name, const Tensor& ids, const char* of,
                          const Tensor& states) {
    check(ids.size(1) == states.size(1), ErrorCode::kInvalidArgument, "{} has {} tokens: {} has {}",
          name, ids.size(1), of, states.size(1));
  }

  /// bls keeps pooled projections on the host, where comparing them waits for nothing.
  void forward(InstanceState& instance, std::vector<TransformerInput> rows,
               std::shared_ptr<const Fence>* nearly_done = nullptr) const {
    instance.conditioning().forward(instance.context(), *model_, std::move(rows), nearly_done);
  }

  /// The parameter `timesteps`: those of all steps of the images, or none.
  static std::vector<float> read_all_timesteps(const Request& request) {
    const auto given = request.parameter("timesteps");
    if (!given) return {};
    const auto list = given->is_string() ? nlohmann::json::parse(given->get<std::string>(), nullptr,
                                                                 /*allow_exceptions=*/false)
                                         : nlohmann::json();
    constexpr size_t kMost = 1000;
    const bool fits = list.is_array() && list.size() <= kMost &&
                      std::all_of(list.begin(), list.end(), [](const nlohmann::json& value) {
                        return value.is_number() && value >= 0 && value <= 1;
                      });
    check(fits, ErrorCode::kInvalidArgument,
          "parameter timesteps is {}: must be a text such as [1, 0.5], at most {} numbers from 0 "
          "to 1",
          given->dump().substr(0, 200), kMost);
    return list.get<std::vector<float>>();
  }

  static std::vector<double> read_timesteps(const Request& request) {
    std::vector<double> values = request.numbers("timestep");
    for (const double value : values) {
      check(value >= 0 && value <= 1, ErrorCode::kInvalidArgument,
            "timestep is {}: must be from 0 to 1", value);
    }
    return values;
  }

  std::vector<double> read_guidance(const Request& request) const {
    const bool given = request.has_input("guidance");
    check(given == config_.guidance_embeds, ErrorCode::kInvalidArgument,
          "guidance is {}: this model has {}guidance embeddings", given ? "given" : "missing",
          config_.guidance_embeds ? "" : "no ");
    if (!given) return {};
    std::vector<double> values = request.numbers("guidance");
    for (const double value : values) {
      check(value >= 0 && value <= 100, ErrorCode::kInvalidArgument,
            "guidance is {}: must be from 0 to 100", value);
    }
    return values;
  }

  TransformerConfig config_;
  std::unique_ptr<const DitTransformer> model_;
};

class VaeModel final : public StageModel {
 public:
  explicit VaeModel(const ModelSettings& settings)
      : StageModel(settings), config_(load_vae_config(settings.directory / "vae" / "config.json")) {
    Context ctx = loading_context(settings);
    const auto files = WeightFiles::open(settings.directory / "vae", "diffusion_pytorch_model");
    model_ = std::make_unique<VaeDecoder>(ctx, config_, *files, settings.dtype);
  }

 protected:
  void run(InstanceState& instance, Request& request) const override {
    Context& ctx = instance.context();
    const int64_t sizes[] = {config_.latent_channels, -1, -1};
    const Tensor latents = request.tensor("latents", settings().dtype, sizes);
    const int64_t largest_side = options().max_side;
    const int64_t factor = config_.scale_factor();
    const int64_t height = latents.size(2) * factor;
    const int64_t width = latents.size(3) * factor;
    check(height <= largest_side && width <= largest_side, ErrorCode::kInvalidArgument,
          "latents of {} x {} give {} x {} pixels: at most {} a side", latents.size(2),
          latents.size(3), height, width, largest_side);
    const Tensor image =
        request.output("image", DType::kF32, {request.rows(), config_.out_channels, height, width});
    for (int64_t row = 0; row < request.rows(); ++row) {
      decode_within_memory(ctx, *model_, latents[row], image[row]);
    }
  }

 private:
  VaeConfig config_;
  std::unique_ptr<const VaeDecoder> model_;
};

}  // namespace

std::unique_ptr<const ServedModel> load_stage_model(const ModelSettings& settings) {
  switch (parse_stage(settings.name)) {
    case StageKind::kClipEncoder:
      return std::make_unique<ClipModel>(settings);
    case StageKind::kT5Encoder:
      return std::make_unique<T5Model>(settings);
    case StageKind::kDitTransformer:
      return std::make_unique<DitModel>(settings);
    case StageKind::kVaeDecoder:
      return std::make_unique<VaeModel>(settings);
  }
  fail(ErrorCode::kInternal, "stage '{}'", settings.name);
}

}  // namespace flux::triton

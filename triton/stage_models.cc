#include "triton/stage_models.h"

#include <algorithm>
#include <optional>

#include "ops/registry.h"
#include "pipeline/latents.h"
#include "pipeline/layout.h"
#include "pipeline/request.h"
#include "pipeline/stage_runs.h"
#include "pipeline/text_stages.h"
#include "support/error.h"
#include "support/json_file.h"
#include "support/log.h"
#include "triton/cancel_scope.h"
#include "triton/instance_state.h"
#include "triton/options.h"
#include "weights/weight_files.h"

namespace flux::triton {
namespace {

/// A request of an execution, with the error that it failed with, if it has.
struct Job {
  Request* request;
  std::exception_ptr error;

  /// Does a part of the work, unless an earlier part failed.
  template <typename Work>
  void attempt(Work&& work) {
    if (error) return;
    try {
      work(*request);
    } catch (...) {
      error = std::current_exception();
    }
  }

  /// Whether it failed with kUnavailable, as it does where memory runs out.
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

/// A model of one stage: how it answers requests. A request that fails does not change the answers
/// to the others of its execution.
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
    if (execution.rows == 0) return;
    report_batch(instance.handle(), execution.rows, execution.start, execution.start,
                 execution.last);
  }

 protected:
  /// Whether run_together() computes all requests of an execution at once. Otherwise they are
  /// computed one after another, and each is answered before the next one begins.
  virtual bool computes_together() const { return false; }
  /// Computes all rows of a request into its outputs.
  virtual void run(InstanceState& instance, Request& request) const = 0;
  /// Computes the jobs that have no error yet. Returns a fence shortly before the end of the
  /// computation, or null.
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
    const CancelScope scope(ctx, [&jobs] {
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

  /// Returns the time when it began: on a CPU, after waiting for its turn. A GPU schedules the work
  /// of several models by itself.
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

  /// The one place where a stage waits for its GPU: whoever gets an answer may read it at once.
  /// Where all callers take a handover, the host waits for `nearly_done` only.
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

  /// After a failure: a request must not be answered while a GPU still works on its tensors. Where
  /// memory ran out, unused memory is given back, so that other models can go on.
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

  /// Called before the answer goes out: a client that has the answer finds it counted.
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

/// The components of a served model, which are beside one another as in a checkpoint.
DiffusersLayout layout_of(const ModelSettings& settings) {
  return DiffusersLayout(settings.directory);
}

/// Calls `make` with a loader of the component's weights.
template <typename Make>
auto load_weights(const ModelSettings& settings, Component component, const Make& make) {
  Context ctx = loading_context(settings);
  const auto files =
      WeightFiles::open(layout_of(settings).directory(component), info_of(component).weights_stem);
  return make(Loader(ctx, *files, {settings.dtype}));
}

/// A text encoder. `Stage` is ClipStage or T5Stage, which differ in their inputs and in the shape
/// of their output.
template <typename Stage, typename Config>
class TextModel : public StageModel {
 public:
  TextModel(const ModelSettings& settings, const Config& config, Component encoder,
            Component tokenizer, const char* output)
      : StageModel(settings), config_(config), output_(output) {
    stage_ = load_weights(settings, encoder, [&](const Loader& load) {
      return std::make_unique<Stage>(load, config_, layout_of(settings).directory(tokenizer));
    });
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
      : TextModel(settings, load_clip_config(layout_of(settings).config(Component::kTextEncoder)),
                  Component::kTextEncoder, Component::kTokenizer, "pooled_prompt_embeds") {}

 protected:
  Shape output_shape(const Request& request) const override {
    return {request.rows(), config().hidden_size};
  }
};

class T5Model final : public TextModel<T5Stage, T5Config> {
 public:
  explicit T5Model(const ModelSettings& settings)
      : TextModel(settings, load_t5_config(layout_of(settings).config(Component::kTextEncoder2)),
                  Component::kTextEncoder2, Component::kTokenizer2, "prompt_embeds"),
        default_length_(settings.integer_parameter("default_max_sequence_length")) {
    check(default_length_ >= 1 && default_length_ <= kMaxSequenceLength,
          ErrorCode::kInvalidArgument,
          "model '{}': parameter 'default_max_sequence_length' of config.pbtxt is {}: must be from "
          "1 to {}",
          settings.name, default_length_, kMaxSequenceLength);
  }

 protected:
  Shape output_shape(const Request& request) const override {
    return {request.rows(), sequence_length(request), config().d_model};
  }

 private:
  int64_t sequence_length(const Request& request) const {
    if (!request.has_input("max_sequence_length")) return default_length_;
    const std::vector<int64_t> lengths = request.integers("max_sequence_length");
    for (const int64_t length : lengths) {
      check(length >= 1 && length <= kMaxSequenceLength, ErrorCode::kInvalidArgument,
            "max_sequence_length is {}: must be from 1 to {}", length, kMaxSequenceLength);
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
        config_(load_flux_transformer_config(layout_of(settings).config(Component::kTransformer))) {
    model_ = load_weights(settings, Component::kTransformer, [&](const Loader& load) {
      return std::make_unique<const FluxTransformer>(load, config_);
    });
  }

  std::unique_ptr<InstanceData> make_instance_data() const override {
    return std::make_unique<Data>(*model_);
  }

 protected:
  /// True on a GPU. On a CPU a batch is no faster, and the first row would wait for the others.
  bool computes_together() const override { return !settings().device.is_cpu(); }

  void run(InstanceState& instance, Request& request) const override {
    forward(instance, prepare(request));
  }

  std::shared_ptr<const Fence> run_together(InstanceState& instance,
                                            std::span<Job> jobs) const override {
    std::vector<std::vector<TransformerInput>> prepared;  // of jobs without an error
    std::vector<TransformerInput> all;
    for (Job& job : jobs) {
      job.attempt([&](Request& request) {
        const std::vector<TransformerInput>& rows = prepared.emplace_back(prepare(request));
        all.insert(all.end(), rows.begin(), rows.end());
      });
    }
    if (all.empty()) return nullptr;
    std::shared_ptr<const Fence> nearly_done;
    try {
      forward(instance, all, &nearly_done);
    } catch (const std::exception&) {
      nearly_done = nullptr;
      // Retry one by one, so that only the culprit fails.
      auto rows = prepared.begin();
      for (Job& job : jobs) {
        job.attempt([&](Request&) { forward(instance, *rows++); });
      }
    }
    return nearly_done;
  }

 private:
  /// The images of many users alternate in an instance.
  struct Data final : InstanceData {
    explicit Data(const FluxTransformer& model) : conditioning(model, 16) {}
    ConditioningCache conditioning;
  };

  std::vector<TransformerInput> prepare(Request& request) const {
    const DType dtype = settings().dtype;
    const int64_t image[] = {-1, config_.in_channels};
    const int64_t text[] = {-1, config_.joint_attention_dim};
    const int64_t pooled_size[] = {config_.pooled_projection_dim};
    const int64_t ids[] = {-1, 3};
    const ConstTensor hidden = request.tensor("hidden_states", dtype, image);
    const ConstTensor encoder = request.tensor("encoder_hidden_states", dtype, text);
    const ConstTensor pooled = request.tensor("pooled_projections", dtype, pooled_size);
    const ConstTensor img_ids = request.tensor("img_ids", DType::kF32, ids);
    const ConstTensor txt_ids = request.tensor("txt_ids", DType::kF32, ids);
    expect_rows("img_ids", img_ids, "hidden_states", hidden);
    expect_rows("txt_ids", txt_ids, "encoder_hidden_states", encoder);
    const std::vector<StepClock> clocks = read_clocks(request);
    const std::vector<double> guidance = read_guidance(request);
    const Tensor noise_pred = request.output("noise_pred", dtype, hidden.shape());
    std::vector<TransformerInput> rows;
    for (int64_t row = 0; row < request.rows(); ++row) {
      const auto at = static_cast<size_t>(row);
      TransformerInput& input = rows.emplace_back();
      input.images = {{hidden[row], img_ids[row], noise_pred[row]}};
      input.encoder_hidden_states = encoder[row];
      input.txt_ids = txt_ids[row];
      input.pooled_projections = pooled[row];
      if (!guidance.empty()) input.guidance = static_cast<float>(guidance[at]);
      input.clock = clocks[at];
    }
    return rows;
  }

  static void expect_rows(const char* name, const ConstTensor& ids, const char* of,
                          const ConstTensor& states) {
    check(ids.size(1) == states.size(1), ErrorCode::kInvalidArgument, "{} has {} tokens: {} has {}",
          name, ids.size(1), of, states.size(1));
  }

  /// The cache compares pooled projections. bls keeps them on the host, where that waits for
  /// nothing.
  static void forward(InstanceState& instance, std::vector<TransformerInput> rows,
                      std::shared_ptr<const Fence>* nearly_done = nullptr) {
    ConditioningCache& cache = static_cast<Data*>(instance.data())->conditioning;
    std::shared_ptr<const Fence> unused;
    run_transformer_step(instance.context(), cache, std::move(rows), {},
                         nearly_done != nullptr ? nearly_done : &unused);
  }

  /// A row's clock: of the schedule in the parameter `timesteps` where a caller gives it, else of
  /// the row's `timestep` alone.
  std::vector<StepClock> read_clocks(const Request& request) const {
    const std::optional<StepClock> common = read_schedule(request);
    std::vector<StepClock> clocks;
    for (const double value : request.numbers("timestep")) {
      check(value >= 0 && value <= 1, ErrorCode::kInvalidArgument,
            "timestep is {}: must be from 0 to 1", value);
      const auto timestep = static_cast<float>(value);
      check(!common || common->timestep() == timestep, ErrorCode::kInvalidArgument,
            "timestep is {}: parameters timesteps and step say {}", value,
            common ? common->timestep() : 0.0f);
      // On a CPU modulations take a negligible part of a step.
      const bool shared = common && !settings().device.is_cpu();
      clocks.push_back(shared ? *common : StepClock::single(timestep));
    }
    return clocks;
  }

  /// The schedule of the parameters `timesteps`, of all steps of the images, and `step`, the index
  /// of this step; nothing when they are not given.
  static std::optional<StepClock> read_schedule(const Request& request) {
    const auto given = request.parameter("timesteps");
    if (!given) return std::nullopt;
    const auto list = given->is_string() ? nlohmann::json::parse(given->get<std::string>(), nullptr,
                                                                 /*allow_exceptions=*/false)
                                         : nlohmann::json();
    constexpr size_t kMost = 1000;
    const bool fits = list.is_array() && !list.empty() && list.size() <= kMost &&
                      std::all_of(list.begin(), list.end(), [](const nlohmann::json& value) {
                        return value.is_number() && value >= 0 && value <= 1;
                      });
    check(fits, ErrorCode::kInvalidArgument,
          "parameter timesteps is {}: must be a text such as [1, 0.5], 1 to {} numbers from 0 to 1",
          quoted(*given).substr(0, 200), kMost);
    const auto step = request.parameter("step");
    check(step && step->is_number_integer() && *step >= 0 && *step < list.size(),
          ErrorCode::kInvalidArgument,
          "parameter step is {}: must be from 0 to {}, the place of timestep in timesteps",
          step ? quoted(*step).substr(0, 200) : "missing", list.size() - 1);
    return StepClock{std::make_shared<const std::vector<float>>(list.get<std::vector<float>>()),
                     step->get<size_t>()};
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

  FluxTransformerConfig config_;
  std::unique_ptr<const FluxTransformer> model_;
};

class VaeModel final : public StageModel {
 public:
  explicit VaeModel(const ModelSettings& settings)
      : StageModel(settings),
        config_(load_vae_config(layout_of(settings).config(Component::kVae))) {
    model_ = load_weights(settings, Component::kVae, [&](const Loader& load) {
      return std::make_unique<const VaeDecoder>(load, config_);
    });
  }

 protected:
  void run(InstanceState& instance, Request& request) const override {
    Context& ctx = instance.context();
    const int64_t sizes[] = {config_.latent_channels, -1, -1};
    const ConstTensor latents = request.tensor("latents", settings().dtype, sizes);
    const int64_t largest_side = options().max_side;
    const int64_t factor = config_.scale_factor();
    const int64_t height = latents.size(2) * factor;
    const int64_t width = latents.size(3) * factor;
    check(height <= largest_side && width <= largest_side, ErrorCode::kInvalidArgument,
          "latents of {} x {} give {} x {} pixels: at most {} a side", latents.size(2),
          latents.size(3), height, width, largest_side);
    check(!latents.device().is_cpu() || all_finite(latents), ErrorCode::kInvalidArgument,
          "latents hold values that are not finite");
    const Tensor image =
        request.output("image", DType::kF32, {request.rows(), config_.out_channels, height, width});
    for (int64_t row = 0; row < request.rows(); ++row) {
      run_decoder(ctx, *model_, latents[row], image[row], {}, {});
    }
  }

 private:
  VaeConfig config_;
  std::unique_ptr<const VaeDecoder> model_;
};

template <typename Model>
std::unique_ptr<const ServedModel> make_model(const ModelSettings& settings) {
  return std::make_unique<const Model>(settings);
}

/// The models' makers, in the order of StageKind.
constexpr std::unique_ptr<const ServedModel> (*kMakers[])(const ModelSettings&) = {
    make_model<ClipModel>, make_model<T5Model>, make_model<DitModel>, make_model<VaeModel>};
static_assert(std::size(kMakers) == std::size(kStages));

}  // namespace

std::unique_ptr<const ServedModel> load_stage_model(const ModelSettings& settings) {
  return kMakers[static_cast<size_t>(parse_stage(settings.name))](settings);
}

}  // namespace flux::triton

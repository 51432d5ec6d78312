#include <algorithm>
#include <optional>

#include "ops/registry.h"
#include "pipeline/stage_runs.h"
#include "support/error.h"
#include "support/json_file.h"
#include "triton/served_weights.h"
#include "triton/stage_adapters.h"
#include "triton/stage_model.h"
#include "triton/stage_models.h"
#include "triton/step_turns.h"
#include "triton/wire_type.h"

namespace flux::triton {
namespace {

class DitModel final : public StageModel {
 public:
  explicit DitModel(const ModelSettings& settings)
      : StageModel(settings),
        config_(load_flux_transformer_config(layout_of(settings).config(Component::kTransformer))),
        adapters_(this->settings(), AdapterModel::kTransformer) {
    accept_config(io());
    const auto make = [this](const Loader& load) {
      return std::make_unique<const FluxTransformer>(load, config_);
    };
    transformer_.emplace(this->settings(), Component::kTransformer, FirstLoad::kNow, make,
                         [this] { drop_states(); });
  }

  std::unique_ptr<InstanceData> make_instance_data() const override {
    return std::make_unique<Data>(settings().device);
  }

 protected:
  WeightResidency::Member& weights() const override { return transformer_->member(); }

  /// True on a GPU. On a CPU a batch is no faster, and the first row would wait for the others.
  bool computes_together() const override { return !settings().device.is_cpu(); }

  std::span<const std::string_view> request_parameters() const override {
    static constexpr std::string_view kKnown[] = {"timesteps", "step", kPredictedTokens};
    return kKnown;
  }

  bool takes_adapters() const override { return true; }

  void run(InstanceState& instance, Request& request) const override {
    const PreparedRequest prepared = prepare(request);
    forward(instance, {&prepared, 1});
  }

  std::shared_ptr<const Fence> run_together(InstanceState& instance,
                                            std::span<Job> jobs) const override {
    std::vector<PreparedRequest> prepared;  // of jobs without an error
    for (Job& job : jobs) {
      job.attempt([&](Request& request) { prepared.push_back(prepare(request)); });
    }
    if (prepared.empty()) return nullptr;
    std::shared_ptr<const Fence> nearly_done;
    try {
      forward(instance, prepared, &nearly_done);
    } catch (const std::exception&) {
      nearly_done = nullptr;
      // Retry one by one, so that only the culprit fails.
      auto next = prepared.begin();
      for (Job& job : jobs) {
        job.attempt([&](Request&) { forward(instance, {&*next++, 1}); });
      }
    }
    return nearly_done;
  }

 private:
  ModelIo io() const {
    const DataType type = wire_type(settings().dtype);
    ModelIo io;
    io.inputs = {{"hidden_states", type, {-1, config_.in_channels}},
                 {"timestep", DataType::kFp32, {1}},
                 {"guidance", DataType::kFp32, {1}, !config_.guidance_embeds},
                 {"pooled_projections", type, {config_.pooled_projection_dim}},
                 {"encoder_hidden_states", type, {-1, config_.joint_attention_dim}},
                 {"img_ids", DataType::kFp32, {-1, 3}},
                 {"txt_ids", DataType::kFp32, {-1, 3}}};
    io.outputs = {{"noise_pred", type, {-1, config_.out_channels}}};
    io.parameters = {"quantization", "attention"};
    io.shared_sizes = {{"pooled_projection_dim", config_.pooled_projection_dim},
                       {"joint_attention_dim", config_.joint_attention_dim},
                       {"in_channels", config_.in_channels},
                       {"out_channels", config_.out_channels}};
    return io;
  }

  /// The images of many users alternate in an instance.
  struct Data final : InstanceData {
    explicit Data(const Device& device) : steps(device, backend_for(device).useful_tokens()) {}
    void drop_states() override { conditioning.reset(); }

    std::optional<ConditioningCache> conditioning;  // of the weights that are there
    StepDevice steps;
  };

  struct PreparedRequest {
    std::vector<TransformerInput> rows;
    std::vector<AdapterUse> adapters;  // of all of them
  };

  PreparedRequest prepare(Request& request) const {
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
    PreparedRequest prepared{{}, adapters_.read(request)};
    const int64_t tokens = hidden.size(1);
    const int64_t predicted = read_predicted_tokens(request, tokens);
    const Tensor noise_pred =
        request.output("noise_pred", dtype, {request.rows(), predicted, config_.out_channels});
    for (int64_t row = 0; row < request.rows(); ++row) {
      const auto at = static_cast<size_t>(row);
      TransformerInput& input = prepared.rows.emplace_back();
      input.images = {{hidden[row].slice(0, 0, predicted), img_ids[row].slice(0, 0, predicted),
                       noise_pred[row]}};
      if (predicted < tokens) {
        input.images.push_back({hidden[row].slice(0, predicted, tokens),
                                img_ids[row].slice(0, predicted, tokens),
                                {}});
      }
      input.encoder_hidden_states = encoder[row];
      input.txt_ids = txt_ids[row];
      input.pooled_projections = pooled[row];
      if (!guidance.empty()) input.guidance = static_cast<float>(guidance[at]);
      input.clock = clocks[at];
    }
    return prepared;
  }

  static void expect_rows(const char* name, const ConstTensor& ids, const char* of,
                          const ConstTensor& states) {
    check(ids.size(1) == states.size(1), ErrorCode::kInvalidArgument, "{} has {} tokens: {} has {}",
          name, ids.size(1), of, states.size(1));
  }

  /// The rows with their adapters, for one step.
  std::vector<TransformerInput> with_adapters(Context& ctx,
                                              std::span<const PreparedRequest> requests) const {
    std::vector<std::vector<AdapterUse>> uses;
    for (const PreparedRequest& request : requests) uses.push_back(request.adapters);
    const std::vector<std::vector<AppliedAdapter>> applied = adapters_.bind(
        ctx, {(*transformer_)->places(), transformer_->store(), settings().dtype}, uses);
    std::vector<TransformerInput> rows;
    for (size_t i = 0; i < requests.size(); ++i) {
      for (const TransformerInput& row : requests[i].rows) {
        rows.push_back(row);
        rows.back().adapters = applied[i];
      }
    }
    return rows;
  }

  /// The cache compares pooled projections. bls keeps them on the host, where that waits for
  /// nothing.
  void forward(InstanceState& instance, std::span<const PreparedRequest> requests,
               std::shared_ptr<const Fence>* nearly_done = nullptr) const {
    std::optional<ConditioningCache>& cache = static_cast<Data*>(instance.data())->conditioning;
    if (!cache) cache.emplace(**transformer_, 16);
    const Relief others = others_leave();
    std::shared_ptr<const Fence> unused;
    std::vector<TransformerInput> rows =
        with_relief({&others, 1}, [&] { return with_adapters(instance.context(), requests); });
    run_transformer_step(instance.context(), *cache, std::move(rows), {&others, 1},
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
    check(given || !request.parameter("step"), ErrorCode::kInvalidArgument,
          "parameter timesteps is missing: step is a place in it");
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
          quoted(*given), kMost);
    const auto step = request.parameter("step");
    check(step && step->is_number_integer() && *step >= 0 && *step < list.size(),
          ErrorCode::kInvalidArgument,
          "parameter step is {}: must be from 0 to {}, the place of timestep in timesteps",
          step ? quoted(*step) : "missing", list.size() - 1);
    return StepClock{std::make_shared<const std::vector<float>>(list.get<std::vector<float>>()),
                     step->get<size_t>()};
  }

  /// How many of a row's image tokens, the first ones, noise is predicted for: all, or what the
  /// parameter says. The others are of an image that they attend to.
  static int64_t read_predicted_tokens(const Request& request, int64_t tokens) {
    const auto given = request.parameter(kPredictedTokens);
    if (!given) return tokens;
    check(given->is_number_integer() && *given >= 1 && *given <= tokens,
          ErrorCode::kInvalidArgument,
          "parameter {} is {}: must be a whole number from 1 to {}, the tokens of hidden_states",
          kPredictedTokens, quoted(*given), tokens);
    return given->get<int64_t>();
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
  std::optional<const ServedWeights<FluxTransformer>> transformer_;
  StageAdapters adapters_;
};

}  // namespace

std::unique_ptr<const ServedModel> make_dit_model(const ModelSettings& settings) {
  return std::make_unique<const DitModel>(settings);
}

}  // namespace flux::triton

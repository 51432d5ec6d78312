#include <algorithm>
#include <optional>

#include "ops/registry.h"
#include "pipeline/stage_runs.h"
#include "support/error.h"
#include "support/json_file.h"
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
        config_(load_flux_transformer_config(layout_of(settings).config(Component::kTransformer))) {
    accept_config(io());
    load_weights(settings, Component::kTransformer, [&](const Loader& load) {
      model_ = std::make_unique<const FluxTransformer>(load, config_);
    });
  }

  std::unique_ptr<InstanceData> make_instance_data() const override {
    return std::make_unique<Data>(*model_, settings().device);
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
    io.outputs = {{"noise_pred", type, {-1, config_.in_channels}}};
    io.parameters = {"quantization", "attention"};
    io.shared_sizes = {{"pooled_projection_dim", config_.pooled_projection_dim},
                       {"joint_attention_dim", config_.joint_attention_dim},
                       {"in_channels", config_.in_channels}};
    return io;
  }

  /// The images of many users alternate in an instance.
  struct Data final : InstanceData {
    Data(const FluxTransformer& model, const Device& device)
        : conditioning(model, 16), steps(device, backend_for(device).useful_tokens()) {}
    ConditioningCache conditioning;
    StepDevice steps;
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

}  // namespace

std::unique_ptr<const ServedModel> make_dit_model(const ModelSettings& settings) {
  return std::make_unique<const DitModel>(settings);
}

}  // namespace flux::triton

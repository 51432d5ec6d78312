#include "pipeline/request.h"
#include "pipeline/text_stages.h"
#include "support/error.h"
#include "support/log.h"
#include "triton/served_weights.h"
#include "triton/stage_adapters.h"
#include "triton/stage_model.h"
#include "triton/stage_models.h"
#include "triton/wire_type.h"

namespace flux::triton {
namespace {

/// A text encoder. `Stage` is ClipStage or T5Stage, which differ in their inputs and in the shape
/// of their output.
template <typename Stage, typename Config>
class TextModel : public StageModel {
 public:
  TextModel(const ModelSettings& settings, const Config& config, const ModelIo& io,
            Component encoder, Component tokenizer)
      : StageModel(settings),
        config_(config),
        output_(io.outputs[0].name),
        adapters_(this->settings(),
                  encoder == Component::kTextEncoder ? AdapterModel::kClip : AdapterModel::kT5) {
    accept_config(io);
    const auto make = [this, tokenizer](const Loader& load) {
      return std::make_unique<const Stage>(load, config_,
                                           layout_of(this->settings()).place(tokenizer));
    };
    stage_.emplace(this->settings(), encoder, FirstLoad::kNow, make, [this] { drop_states(); });
  }

 protected:
  WeightResidency::Member& weights() const final { return stage_->member(); }

  bool takes_adapters() const final { return true; }

  void run(InstanceState& instance, Request& request) const final {
    Context& ctx = instance.context();
    const std::vector<std::string> prompts = request.strings("prompt");
    const std::vector<AdapterUse> uses = adapters_.read(request);
    const Tensor embeds = request.output(output_, settings().dtype, output_shape(request));
    const Relief others = others_leave();
    const std::vector<AppliedAdapter> applied = with_relief({&others, 1}, [&] {
      return adapters_.bind(ctx, {(*stage_)->places(), stage_->store(), settings().dtype},
                            {&uses, 1})[0];
    });
    bool truncated = false;
    for (size_t row = 0; row < prompts.size(); ++row) {
      truncated |= with_relief({&others, 1}, [&] {
        return (*stage_)->encode(ctx, prompts[row], embeds[static_cast<int64_t>(row)], applied);
      });
    }
    if (!truncated) return;
    log_warning("{}: {}a prompt was longer than the encoder takes and was cut", settings().name,
                request.log_prefix());
    request.set_flag("truncated");
  }

  virtual Shape output_shape(const Request& request) const = 0;
  const Config& config() const { return config_; }

 private:
  Config config_;
  std::string output_;
  std::optional<const ServedWeights<Stage>> stage_;
  StageAdapters adapters_;
};

class ClipModel final : public TextModel<ClipStage, ClipConfig> {
 public:
  explicit ClipModel(const ModelSettings& settings)
      : ClipModel(settings, load_clip_config(layout_of(settings).config(Component::kTextEncoder))) {
  }

 protected:
  Shape output_shape(const Request& request) const override {
    return {request.rows(), config().hidden_size};
  }

 private:
  ClipModel(const ModelSettings& settings, const ClipConfig& config)
      : TextModel(settings, config, io_of(settings, config), Component::kTextEncoder,
                  Component::kTokenizer) {}

  static ModelIo io_of(const ModelSettings& settings, const ClipConfig& config) {
    ModelIo io;
    io.inputs = {{"prompt", DataType::kBytes, {1}}};
    io.outputs = {{"pooled_prompt_embeds", wire_type(settings.dtype), {config.hidden_size}}};
    io.shared_sizes = {{"pooled_projection_dim", config.hidden_size}};
    return io;
  }
};

class T5Model final : public TextModel<T5Stage, T5Config> {
 public:
  explicit T5Model(const ModelSettings& settings)
      : T5Model(settings, load_t5_config(layout_of(settings).config(Component::kTextEncoder2))) {}

 protected:
  Shape output_shape(const Request& request) const override {
    return {request.rows(), sequence_length(request), config().d_model};
  }

 private:
  T5Model(const ModelSettings& settings, const T5Config& config)
      : TextModel(settings, config, io_of(settings, config), Component::kTextEncoder2,
                  Component::kTokenizer2),
        default_length_(settings.integer_parameter("default_max_sequence_length")) {
    check(default_length_ >= 1 && default_length_ <= kMaxSequenceLength,
          ErrorCode::kInvalidArgument,
          "model '{}': parameter 'default_max_sequence_length' of config.pbtxt is {}: must be from "
          "1 to {}",
          settings.name, default_length_, kMaxSequenceLength);
  }

  static ModelIo io_of(const ModelSettings& settings, const T5Config& config) {
    ModelIo io;
    io.inputs = {{"prompt", DataType::kBytes, {1}},
                 {"max_sequence_length", DataType::kInt32, {1}, true}};
    io.outputs = {{"prompt_embeds", wire_type(settings.dtype), {-1, config.d_model}}};
    io.parameters = {"default_max_sequence_length", "quantization"};
    io.shared_sizes = {{"joint_attention_dim", config.d_model}};
    return io;
  }

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

}  // namespace

std::unique_ptr<const ServedModel> make_clip_model(const ModelSettings& settings) {
  return std::make_unique<const ClipModel>(settings);
}

std::unique_ptr<const ServedModel> make_t5_model(const ModelSettings& settings) {
  return std::make_unique<const T5Model>(settings);
}

}  // namespace flux::triton

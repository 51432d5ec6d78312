#include "pipeline/local_stages.h"

#include <array>
#include <functional>
#include <string>
#include <utility>

#include "models/vae/vae_encoder.h"
#include "ops/registry.h"
#include "pipeline/adapter_shelf.h"
#include "pipeline/stage_runs.h"
#include "pipeline/text_stages.h"
#include "pipeline/weight_bytes.h"
#include "support/error.h"

namespace flux {
namespace {

/// A stage of the table below: what loads and drops its model.
struct Slot {
  int64_t least_bytes;  // of its weights
  std::function<void()> load;
  std::function<void()> drop;
  /// Bytes of the loaded weights; empty while they are not loaded.
  std::function<std::optional<int64_t>()> bytes;
};

template <typename Model>
std::optional<int64_t> bytes_of(const std::optional<Model>& model) {
  if (!model) return std::nullopt;
  return model->weight_bytes();
}

}  // namespace

struct LocalStages::Loaded {
  Loaded(std::shared_ptr<const Checkpoint> opened, Backend& backend, const LocalOptions& settings)
      : checkpoint(std::move(opened)), options(settings), context(backend, settings.threads) {}

  std::shared_ptr<const Checkpoint> checkpoint;
  LocalOptions options;
  Context context;
  std::optional<ClipStage> clip;
  std::optional<T5Stage> t5;
  std::optional<FluxTransformer> transformer;
  std::optional<VaeEncoder> vae_encoder;
  std::optional<VaeDecoder> vae_decoder;
  std::optional<ConditioningCache> conditioning;  // of the transformer
  std::shared_ptr<const Fence> last_step;         // a point shortly before its end, on a GPU
  AdapterShelf shelf;
  AdapterSet adapters{shelf};
  AdapterShelf::Target clip_adapters{shelf, AdapterModel::kClip};
  AdapterShelf::Target t5_adapters{shelf, AdapterModel::kT5};
  AdapterShelf::Target transformer_adapters{shelf, AdapterModel::kTransformer};

  /// In the order of StageKind.
  const std::array<Slot, std::size(kStages)> slots = make_slots();

  std::array<Slot, std::size(kStages)> make_slots();
  Slot make_slot(Component component, std::function<void(const Loader&)> load,
                 std::function<void()> drop, std::function<std::optional<int64_t>()> bytes);
  const Slot& slot(StageKind stage) const { return slots[static_cast<size_t>(stage)]; }
  bool has(StageKind stage) const { return slot(stage).bytes().has_value(); }
  /// Drops stages that are loaded. Returns whether there was any.
  bool drop(std::span<const StageKind> stages);
  bool drop_others(StageKind stage);
  /// The last relief of every stage: the others are dropped; they are loaded again when they are
  /// wanted.
  Relief others_leave(StageKind stage);
  /// The reliefs of the VAE that are better than seams between tiles: what is quickly made again.
  /// Loading the transformer again for each image is not.
  std::array<Relief, 2> before_tiles();
  /// Loads a stage; drops the others where there is no room.
  void ensure(StageKind stage);
  /// The chosen adapters of a stage that is loaded; `of` is its target.
  std::vector<AppliedAdapter> applied(AdapterShelf::Target& of, Component component,
                                      std::span<const LinearPlace> places,
                                      std::span<const AdapterChoice> chosen);
};

Slot LocalStages::Loaded::make_slot(Component component, std::function<void(const Loader&)> load,
                                    std::function<void()> drop,
                                    std::function<std::optional<int64_t>()> bytes) {
  const TensorStore& weights = checkpoint->weights(component);
  return {least_weight_bytes(component, weights, options.precision()),
          [this, &weights, load = std::move(load)] {
            load(Loader(context, weights, options.precision()));
          },
          std::move(drop), std::move(bytes)};
}

std::array<Slot, std::size(kStages)> LocalStages::Loaded::make_slots() {
  const FluxConfig& config = checkpoint->config();
  const Layout& layout = checkpoint->layout();
  return {
      make_slot(
          Component::kTextEncoder,
          [&](const Loader& load) {
            clip.emplace(load, config.clip, layout.place(Component::kTokenizer));
          },
          [&] { clip.reset(); }, [&] { return bytes_of(clip); }),
      make_slot(
          Component::kTextEncoder2,
          [&](const Loader& load) {
            t5.emplace(load, config.t5, layout.place(Component::kTokenizer2));
          },
          [&] { t5.reset(); }, [&] { return bytes_of(t5); }),
      make_slot(
          Component::kVae, [&](const Loader& load) { vae_encoder.emplace(load, config.vae); },
          [&] { vae_encoder.reset(); }, [&] { return bytes_of(vae_encoder); }),
      make_slot(
          Component::kTransformer,
          [&](const Loader& load) {
            transformer.emplace(load, config.transformer);
            conditioning.emplace(*transformer, 1);  // an image's steps follow each other
          },
          [&] {
            conditioning.reset();
            transformer.reset();
          },
          [&] { return bytes_of(transformer); }),
      make_slot(
          Component::kVae, [&](const Loader& load) { vae_decoder.emplace(load, config.vae); },
          [&] { vae_decoder.reset(); }, [&] { return bytes_of(vae_decoder); }),
  };
}

bool LocalStages::Loaded::drop(std::span<const StageKind> stages) {
  bool any = false;
  for (const StageKind stage : stages) {
    if (!has(stage)) continue;
    any = true;
    slot(stage).drop();
  }
  return any;
}

bool LocalStages::Loaded::drop_others(StageKind stage) {
  std::vector<StageKind> others;
  for (const StageInfo& other : kStages) {
    if (other.kind != stage) others.push_back(other.kind);
  }
  const bool any = drop(others);
  context.workspace().release();
  context.memory().release();
  return any;
}

Relief LocalStages::Loaded::others_leave(StageKind stage) {
  return {[this, stage] {
    return std::string(drop_others(stage) ? "the weights of other stages are dropped" : "");
  }};
}

std::array<Relief, 2> LocalStages::Loaded::before_tiles() {
  const auto states_leave = [this] {
    if (!conditioning || conditioning->empty()) return std::string();
    finish(context);
    conditioning->clear();
    context.memory().release();
    return std::string("the states of images are dropped");
  };
  const auto text_encoders_leave = [this] {
    constexpr StageKind kEncoders[] = {StageKind::kClipEncoder, StageKind::kT5Encoder};
    if (!drop(kEncoders)) return std::string();
    context.workspace().release();
    return std::string("the weights of the text encoders are dropped");
  };
  return {{{states_leave}, {text_encoders_leave}}};
}

void LocalStages::Loaded::ensure(StageKind stage) {
  if (has(stage)) return;
  const int64_t expected = slot(stage).least_bytes;
  // Checked first: a load that fails midway is wasted.
  if (context.runtime().available_bytes() < expected) drop_others(stage);
  const Relief others = others_leave(stage);
  with_relief({&others, 1}, slot(stage).load);
}

std::vector<AppliedAdapter> LocalStages::Loaded::applied(AdapterShelf::Target& of,
                                                         Component component,
                                                         std::span<const LinearPlace> places,
                                                         std::span<const AdapterChoice> chosen) {
  const std::vector<AdapterUse> uses = adapters.find(chosen);
  return of.bind(context, {places, checkpoint->weights(component), options.dtype}, {&uses, 1})[0];
}

LocalStages::LocalStages(std::shared_ptr<const Checkpoint> checkpoint, const LocalOptions& options)
    : LocalStages(std::move(checkpoint), backend_for(options.device), options) {}

LocalStages::LocalStages(std::shared_ptr<const Checkpoint> checkpoint, Backend& backend,
                         const LocalOptions& options) {
  backend.require(options.precision());
  if (options.memory_limit) backend.limit_memory(*options.memory_limit);
  loaded_ = std::make_unique<Loaded>(std::move(checkpoint), backend, options);
}

LocalStages::~LocalStages() = default;

void LocalStages::load(StageKind stage) { loaded_->ensure(stage); }

void LocalStages::open_adapters(std::span<const AdapterChoice> adapters) {
  loaded_->adapters.open(adapters, loaded_->checkpoint->config());
}

std::vector<std::string> LocalStages::unused_tensors(
    std::span<const AdapterChoice> adapters) const {
  return loaded_->adapters.unused(adapters);
}

int64_t LocalStages::weight_bytes(StageKind stage) const {
  return loaded_->slot(stage).bytes().value_or(0);
}

int64_t LocalStages::workspace_bytes() const {
  return static_cast<int64_t>(loaded_->context.workspace().reserved_bytes());
}

Context& LocalStages::context() { return loaded_->context; }

template <typename Stage>
bool LocalStages::encode_text(StageKind kind, const std::optional<Stage>& stage,
                              std::string_view prompt, std::span<const AdapterChoice> adapters,
                              const Tensor& out) {
  loaded_->ensure(kind);
  const bool clip = kind == StageKind::kClipEncoder;
  const std::vector<AppliedAdapter> applied = loaded_->applied(
      clip ? loaded_->clip_adapters : loaded_->t5_adapters,
      clip ? Component::kTextEncoder : Component::kTextEncoder2, stage->places(), adapters);
  const Relief others = loaded_->others_leave(kind);
  return with_relief({&others, 1},
                     [&] { return stage->encode(loaded_->context, prompt, out, applied); });
}

Tensor LocalStages::encode_clip(std::string_view prompt, bool* truncated,
                                std::span<const AdapterChoice> adapters) {
  const int64_t size = loaded_->checkpoint->config().clip.hidden_size;
  const Tensor pooled = pooled_tensor(loaded_->context, {size}, loaded_->options.dtype);
  const bool cut = encode_text(StageKind::kClipEncoder, loaded_->clip, prompt, adapters, pooled);
  if (truncated != nullptr && cut) *truncated = true;
  return pooled;
}

Tensor LocalStages::encode_t5(std::string_view prompt, int max_sequence_length, bool* truncated,
                              std::span<const AdapterChoice> adapters) {
  const int64_t size = loaded_->checkpoint->config().t5.d_model;
  const Tensor embeds =
      pooled_tensor(loaded_->context, {max_sequence_length, size}, loaded_->options.dtype);
  const bool cut = encode_text(StageKind::kT5Encoder, loaded_->t5, prompt, adapters, embeds);
  if (truncated != nullptr && cut) *truncated = true;
  return embeds;
}

std::vector<TextEmbeddings> LocalStages::encode(std::span<const TextInput> rows) {
  // Here images begin: a file that was replaced since the last ones is noticed.
  for (const TextInput& row : rows) open_adapters(row.adapters);
  std::vector<TextEmbeddings> result;
  for (const TextInput& row : rows) {
    TextEmbeddings embeddings;
    // On the host: ConditioningCache compares it before each step.
    embeddings.pooled_prompt_embeds = to_host(
        loaded_->context, encode_clip(row.prompt, &embeddings.truncated.clip, row.adapters));
    embeddings.prompt_embeds =
        encode_t5(row.prompt_2, row.max_sequence_length, &embeddings.truncated.t5, row.adapters);
    result.push_back(std::move(embeddings));
  }
  return result;
}

std::vector<Tensor> LocalStages::encode_image(const ConstTensor& image,
                                              std::span<const PosteriorDraw> draws) {
  loaded_->ensure(StageKind::kVaeEncoder);
  const Relief others = loaded_->others_leave(StageKind::kVaeEncoder);
  return draw_posterior(run_encoder(loaded_->context, *loaded_->vae_encoder, image,
                                    loaded_->before_tiles(), {&others, 1}),
                        draws);
}

void LocalStages::transformer(std::span<const TransformerInput> rows) {
  // The next step is asked for when the last one nearly ends, which keeps a GPU busy. With more of
  // them ahead progress would not be what is done, and Ctrl-C would have to wait for them.
  if (const auto last_step = std::exchange(loaded_->last_step, nullptr)) last_step->wait();
  loaded_->ensure(StageKind::kDitTransformer);
  std::vector<TransformerInput> inputs(rows.begin(), rows.end());
  for (TransformerInput& input : inputs) {
    input.adapters = loaded_->applied(loaded_->transformer_adapters, Component::kTransformer,
                                      loaded_->transformer->places(), input.chosen);
  }
  const Relief others = loaded_->others_leave(StageKind::kDitTransformer);
  run_transformer_step(loaded_->context, *loaded_->conditioning, std::move(inputs), {&others, 1},
                       &loaded_->last_step);
}

Tensor LocalStages::decode(const ConstTensor& latents) {
  const VaeConfig& config = loaded_->checkpoint->config().vae;
  const int64_t factor = config.scale_factor();
  const Shape size{config.out_channels, latents.size(1) * factor, latents.size(2) * factor};
  loaded_->ensure(StageKind::kVaeDecoder);
  const Relief others = loaded_->others_leave(StageKind::kVaeDecoder);
  const Tensor image =
      with_relief({&others, 1}, [&] { return pooled_tensor(loaded_->context, size, DType::kF32); });
  run_decoder(loaded_->context, *loaded_->vae_decoder, latents, image, loaded_->before_tiles(),
              {&others, 1});
  return image;
}

}  // namespace flux

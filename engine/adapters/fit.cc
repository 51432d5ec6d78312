#include "adapters/fit.h"

#include <algorithm>
#include <set>

#include "adapters/foreign.h"
#include "layers/timestep_embedding.h"
#include "support/error.h"
#include "tensor/format.h"

namespace flux {
namespace {

/// What shapes would tell of the models.
AdapterSizes sizes_of(const AdapterBase& base) {
  AdapterSizes sizes;
  const FluxTransformerConfig& transformer = base.transformer;
  sizes[Width::kHidden] = transformer.inner_dim();
  sizes[Width::kHead] = transformer.attention_head_dim;
  sizes[Width::kInput] = transformer.in_channels;
  sizes[Width::kOutput] = transformer.out_channels;
  sizes[Width::kText] = transformer.joint_attention_dim;
  sizes[Width::kPooled] = transformer.pooled_projection_dim;
  sizes[Width::kTimestep] = kTimestepChannels;
  sizes.double_blocks = transformer.num_layers;
  sizes.single_blocks = transformer.num_single_layers;
  if (base.clip != nullptr) {
    sizes[Width::kClip] = base.clip->hidden_size;
    sizes[Width::kClipMlp] = base.clip->intermediate_size;
    sizes.clip_layers = base.clip->num_hidden_layers;
  }
  if (base.t5 != nullptr) {
    sizes[Width::kT5] = base.t5->d_model;
    sizes[Width::kT5Heads] = base.t5->num_heads * base.t5->d_kv;
    sizes[Width::kT5Mlp] = base.t5->d_ff;
    sizes.t5_layers = base.t5->num_layers;
  }
  return sizes;
}

void check_widths(const Adapter& adapter, const AdapterSizes& sizes) {
  for (size_t i = 0; i < kWidths; ++i) {
    const auto width = static_cast<Width>(i);
    const int64_t found = adapter.sizes[width];
    const int64_t expected = sizes[width];
    const bool widened = width == Width::kInput && found > 0 && found % expected == 0;
    if (found == 0 || expected == 0 || found == expected || widened) continue;
    const std::string_view model = width == Width::kHidden ? model_of_width(found) : "";
    fail(ErrorCode::kInvalidArgument,
         "{}: was made for a model with {} {}{}{}, and this one has {}; give one that was "
         "trained for this model",
         adapter.file, name_of(width), found, model.empty() ? "" : ", as that of ", model,
         expected);
  }
}

/// The number of blocks that a module's model has of its kind.
int64_t block_count(const AdapterSizes& sizes, const Change& change) {
  switch (change.model) {
    case AdapterModel::kClip:
      return sizes.clip_layers;
    case AdapterModel::kT5:
      return sizes.t5_layers;
    case AdapterModel::kTransformer:
      break;
  }
  return change.module.starts_with("single_") ? sizes.single_blocks : sizes.double_blocks;
}

bool has_module(const BaseSizes& base, const Change& change) {
  if (change.model == AdapterModel::kClip && base.sizes[Width::kClip] == 0) return false;
  if (change.model == AdapterModel::kT5 && base.sizes[Width::kT5] == 0) return false;
  if (change.block >= block_count(base.sizes, change)) return false;
  const std::string_view module = change.module;
  if (module.starts_with("time_text_embed.guidance_embedder.")) {
    return base.guidance_embeds;
  }
  if (module.ends_with(".wi")) return !base.gated_t5;
  if (module.ends_with(".wi_0") || module.ends_with(".wi_1")) return base.gated_t5;
  return true;
}

}  // namespace

BaseSizes base_sizes(const AdapterBase& base) {
  return {sizes_of(base), base.transformer.guidance_embeds, base.t5 != nullptr && base.t5->gated};
}

Adapter fit_adapter(const Adapter& adapter, const AdapterBase& base) {
  const BaseSizes known = base_sizes(base);
  const AdapterSizes& sizes = known.sizes;
  check_widths(adapter, sizes);
  Adapter fitted = adapter;
  std::set<const Update*> used;
  std::erase_if(fitted.changes, [&](const Change& change) {
    const bool fits = has_module(known, change);
    if (fits) used.insert(change.update.get());
    return !fits;
  });
  std::set<std::string> unused(adapter.unused.begin(), adapter.unused.end());
  for (const Change& change : adapter.changes) {
    if (used.contains(change.update.get())) continue;
    unused.insert(change.update->tensors.begin(), change.update->tensors.end());
  }
  fitted.unused.assign(unused.begin(), unused.end());
  check(!fitted.changes.empty(), ErrorCode::kInvalidArgument,
        "{}: nothing in it is for this model, which has {} double and {} single blocks; '{}' is "
        "the first that it changes; give one that was trained for this model",
        adapter.file, sizes.double_blocks, sizes.single_blocks, adapter.changes.front().module);
  return fitted;
}

}  // namespace flux

#pragma once

#include "adapters/adapter.h"
#include "models/flux1/config.h"
#include "models/text/config.h"

namespace flux {

/// The models that an adapter is to change.
struct AdapterBase {
  const FluxTransformerConfig& transformer;
  const ClipConfig* clip = nullptr;  // null: is not there, and its changes are unused
  const T5Config* t5 = nullptr;
};

/// All that fit_adapter() goes by: what fits a base fits another one with the same.
struct BaseSizes {
  AdapterSizes sizes;
  bool guidance_embeds = false;
  bool gated_t5 = false;
  friend bool operator==(const BaseSizes&, const BaseSizes&) = default;
};
BaseSizes base_sizes(const AdapterBase& base);

/// The adapter as it fits models: its changes of modules that they have. What changes others (a
/// block that a smaller model lacks, guidance where there is none) goes to `unused`. An x_embedder
/// that has a multiple of the model's input channels is kept: its further columns are for what is
/// joined to the latents. Throws kInvalidArgument for an adapter of a model of other widths, and
/// where nothing is left.
Adapter fit_adapter(const Adapter& adapter, const AdapterBase& base);

}  // namespace flux

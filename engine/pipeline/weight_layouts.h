#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>

#include "pipeline/components.h"
#include "weights/tensor_store.h"

namespace flux {

/// The weights of a component under the names of diffusers and transformers, and how they are named
/// in their files.
struct NamedWeights {
  std::shared_ptr<const TensorStore> store;
  std::string_view layout;  // "diffusers", "Black Forest Labs", "transformers", "llama.cpp"
};

/// Opens the files of a component's weights: a directory of diffusers' or transformers' (`variant`
/// as for WeightFiles::first_file()), one that holds a single file of any name, or a file. Throws
/// as WeightFiles::open().
std::unique_ptr<const TensorStore> open_place(Component component,
                                              const std::filesystem::path& place,
                                              std::string_view variant = {});

/// Finds the weights of a component among the tensors of a file or directory, by a tensor that each
/// layout has and the prefixes that are written before its names. Nothing when there are none, or
/// when what_weights_are() knows them as others.
NamedWeights find_weights(Component component, const std::shared_ptr<const TensorStore>& stored);

/// As find_weights(). Where there are none: for a component that has a config, the tensors by their
/// own names, so that binding says what is missing; else, and where it is known what the tensors
/// belong to, throws kInvalidArgument saying that.
NamedWeights named_weights(Component component, const std::shared_ptr<const TensorStore>& stored,
                           bool has_config);

/// What tensors seem to belong to when no layout knows them, for messages: "weights quantised by
/// bitsandbytes", "a transformer of FLUX.2". Empty: unknown.
std::string_view what_weights_are(const TensorStore& stored);

/// The component's config.json as the shapes of its tensors tell it. Throws kNotFound and
/// kInvalidArgument for tensors that are none of FLUX.1's.
nlohmann::json infer_config(Component component, const TensorStore& weights);

}  // namespace flux

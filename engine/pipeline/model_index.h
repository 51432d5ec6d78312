#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/flux_config.h"

namespace flux {

/// What model_index.json says of a checkpoint: diffusers' entries, and this project's own under the
/// key `flux_triton`: {"default_size": "1024x1024", "format": 1, "name": "FLUX.1-dev"}. All are
/// optional; `convert` writes them.
struct ModelIndex {
  /// The entry of a component: its name, and [library, class].
  struct Entry {
    std::string name;        // "transformer"
    std::string library;     // "diffusers"
    std::string class_name;  // "FluxTransformer2DModel"
  };

  std::filesystem::path file;
  std::string class_name;  // the pipeline's
  std::vector<Entry> components;
  std::optional<ImageSize> default_size;  // of an image where a request is silent
  std::string name;                       // of the checkpoint; empty: that of its directory
  nlohmann::json json;                    // all of it
};

/// The version of what `convert` writes. It grows when an older program would misread a repository.
inline constexpr int kRepositoryFormat = 1;

/// Reads model_index.json. Throws kNotFound when it is missing, kInvalidArgument naming the key
/// when it is no index, or one of a newer format than kRepositoryFormat.
ModelIndex read_model_index(const std::filesystem::path& file);

/// The index of a FluxPipeline with the usual parts: for checkpoints without one. `name` stands for
/// its file in messages.
ModelIndex default_model_index(const std::filesystem::path& name);

/// The text of an index like that of `index`, with this project's key as `convert` writes it.
/// `name`: the checkpoint's.
std::string model_index_for_repository(const ModelIndex& index, ImageSize default_size,
                                       std::string_view name);

/// Parses "HEIGHTxWIDTH", in pixels; nothing for another text.
std::optional<ImageSize> parse_image_size(std::string_view text);

/// Throws kInvalidArgument, starting with `what`, unless the sides are sizes of FLUX's images.
void check_image_size(std::string_view what, ImageSize size, const FluxConfig& config);

}  // namespace flux

#pragma once

#include <filesystem>

namespace flux {

/// Whether a file is one of weights by its name's ending, in a format that is read or not.
bool is_weight_file(const std::filesystem::path& file);

/// Throws kNotFound unless `model_index` (model_index.json of the checkpoint `source`) is there.
/// The message says what `source` is instead, where that can be seen: a single file, a component, a
/// cache of downloads, files of other programs, a directory around checkpoints.
void check_source(const std::filesystem::path& source, const std::filesystem::path& model_index);

}  // namespace flux

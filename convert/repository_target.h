#pragma once

#include <filesystem>

#include "pipeline/checkpoint.h"

namespace flux {

/// The directory that `name` means for a repository to be made from `checkpoint`: absolute, and
/// without symbolic links in it. Throws kInvalidArgument or kNotFound when it cannot be made there
/// without harm: the checkpoint's files would be in it or it in them, it is no directory, it holds
/// something that is no repository of ours, or it exists and `replace` is not set.
std::filesystem::path resolve_repository(const Checkpoint& checkpoint,
                                         const std::filesystem::path& name, bool replace);

}  // namespace flux

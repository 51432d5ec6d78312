#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "pipeline/checkpoint.h"

namespace flux {

/// Where a repository is to be made.
struct RepositoryTarget {
  std::filesystem::path path;       // absolute, and without symbolic links in it
  std::vector<std::string> others;  // models of other checkpoints that it holds, which stay
};

/// The directory that `name` means for the models of `checkpoint` with `prefix` in their names.
/// Throws kInvalidArgument or kNotFound when they cannot be made there without harm: the
/// checkpoint's files would be in it or it in them, it is no directory, it holds something that is
/// no repository of ours, or models of the same names, and `replace` is not set.
RepositoryTarget resolve_repository(const Checkpoint& checkpoint, const std::filesystem::path& name,
                                    const std::string& prefix, bool replace);

}  // namespace flux

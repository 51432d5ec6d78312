#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "flux/parts.h"
#include "pipeline/checkpoint.h"

namespace flux {

/// The layout of a checkpoint's models in a repository made by `convert`: every component is with
/// the served model that needs it, the configurations are with "bls".
class RepositoryLayout final : public Layout {
 public:
  /// `prefix`: of the models' names (model_names.h). Each model's version is the one that a server
  /// takes (version_directory()). Throws as check_model_directory() does.
  RepositoryLayout(std::filesystem::path root, std::string prefix);

  std::filesystem::path place(Component component) const override;
  std::filesystem::path model_index() const override;
  std::filesystem::path config(Component component) const override;

 private:
  std::filesystem::path model(std::string_view kind) const;

  std::filesystem::path root_;
  std::string prefix_;
};

/// The prefixes of the checkpoints that a directory holds as a repository, in alphabetical order;
/// empty for a directory that is none.
std::vector<std::string> prefixes_of(const std::filesystem::path& directory);

/// Opens a SOURCE of the command line: a diffusers checkpoint, a model repository, REPOSITORY/NAME
/// for one of several checkpoints in it, or a file of weights. Parts that are given win over what
/// it holds. Throws as Checkpoint::open() and find_parts(), and kInvalidArgument for a repository
/// of several checkpoints without a name and for what cannot be looked into.
std::shared_ptr<const Checkpoint> open_source(const std::filesystem::path& source,
                                              const PartOptions& parts = {});

}  // namespace flux

#pragma once

#include <filesystem>
#include <memory>

#include "pipeline/checkpoint.h"

namespace flux {

/// The layout of a model repository made by `convert`: every component is with the served model
/// that needs it, the configurations are in bls/1.
class RepositoryLayout final : public Layout {
 public:
  explicit RepositoryLayout(std::filesystem::path root) : root_(std::move(root)) {}

  std::filesystem::path directory(Component component) const override;
  std::filesystem::path configs() const override;

 private:
  std::filesystem::path root_;
};

/// Whether `directory` is a model repository.
bool is_repository(const std::filesystem::path& directory);

/// Opens a SOURCE of the command line: a diffusers checkpoint or a model repository. Throws as
/// Checkpoint::open().
std::shared_ptr<const Checkpoint> open_source(const std::filesystem::path& directory);

}  // namespace flux

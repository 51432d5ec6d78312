#include "convert/repository_layout.h"

namespace flux {

namespace fs = std::filesystem;

fs::path RepositoryLayout::directory(Component component) const {
  const std::optional<StageKind> stage = info_of(component).stage;
  return root_ / (stage ? name_of(*stage) : "bls") / "1" / name_of(component);
}

fs::path RepositoryLayout::configs() const { return root_ / "bls" / "1"; }

bool is_repository(const fs::path& directory) {
  return fs::exists(RepositoryLayout(directory).model_index());
}

std::shared_ptr<const Checkpoint> open_source(const fs::path& directory) {
  if (!is_repository(directory)) return Checkpoint::open(directory);
  return Checkpoint::open(directory, std::make_unique<RepositoryLayout>(fs::absolute(directory)));
}

}  // namespace flux

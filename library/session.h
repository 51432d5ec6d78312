#pragma once

#include <filesystem>
#include <memory>

#include "flux/flux.h"
#include "pipeline/local_stages.h"

namespace flux {

/// An open checkpoint with the stages that compute.
struct Session {
  std::shared_ptr<const Checkpoint> checkpoint;
  LocalOptions options;
  std::unique_ptr<LocalStages> stages;
};

/// Opens a SOURCE. Throws as Model::open().
Session open_session(const std::filesystem::path& source, const ModelOptions& options);

}  // namespace flux

#include "triton/model_registry.h"

#include "triton/bls_model.h"
#include "triton/stage_models.h"

namespace flux::triton {

std::unique_ptr<const ServedModel> load_model(const ModelSettings& settings) {
  if (settings.name == "bls") return std::make_unique<BlsModel>(settings);
  return load_stage_model(settings);
}

}  // namespace flux::triton

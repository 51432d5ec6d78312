#pragma once

#include <functional>
#include <span>
#include <string_view>

#include "models/config_reader.h"
#include "pipeline/components.h"
#include "pipeline/flux_config.h"
#include "pipeline/layout.h"
#include "pipeline/model_index.h"
#include "pipeline/stages.h"
#include "pipeline/text_to_image.h"

namespace flux {

/// Gives the configuration of a component.
using Configs = std::function<ConfigReader(Component component)>;
/// The config files of a layout that has them all.
Configs config_files(const Layout& layout);

/// A kind of pipeline that can be run: the parts of its checkpoints and how it generates.
struct Family {
  std::string_view class_name;            // the pipeline's, of model_index.json
  std::string_view description;           // for messages
  std::span<const Component> components;  // that its checkpoints must have
  std::span<const StageKind> stages;      // of every image, in the order in which it passes them
  std::span<const StageKind> on_demand;   // that only some requests need: those with an image
  /// Reads the configurations of all parts and checks that they fit one another. Throws
  /// kInvalidArgument naming file, key, found and expected.
  FluxConfig (*load_config)(const Configs& configs);
  /// Generates images. See generate() of pipeline/text_to_image.h.
  GenerateResult (*generate)(Stages& stages, const FluxConfig& config, DType dtype,
                             std::span<const ImageParams> rows, const GenerateObserver& observer);
};

/// The family of the pipeline that an index names. Throws kInvalidArgument for a class that is not
/// known, listing those that are.
const Family& family_of(const ModelIndex& index);

}  // namespace flux

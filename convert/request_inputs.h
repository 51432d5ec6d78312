#pragma once

#include <string>

#include "pipeline/flux_config.h"

namespace flux {

/// The entries of `input` in the config.pbtxt of "bls" that request fields make, with commas
/// between them.
std::string request_inputs(const FluxConfig& config);

/// The table of request fields for the "bls" in Python: a JSON array of objects, one a line, with
/// the defaults and limits of this checkpoint. Sides take theirs from the parameters of
/// config.pbtxt, which a user may change.
std::string request_fields_json(const FluxConfig& config);

}  // namespace flux

#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/common.h"
#include "library/session.h"
#include "tensor/tensor.h"

namespace flux::cli {

/// Opens SOURCE; its stages poll interrupted() while they work. Throws UsageError for options that
/// are not allowed, Error for a bad checkpoint.
Session open_session(const ComputeOptions& options);

/// Returns the given max_sequence_length, or the default of the model's kind. Throws UsageError for
/// a number that is not allowed.
int sequence_length(const std::optional<int64_t>& given, const FluxConfig& config);

/// Converts a shape to a JSON array.
nlohmann::json to_json(const Shape& shape);

}  // namespace flux::cli

#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "triton/request.h"

namespace flux::triton {

/// A parameter of the request that is neither among `known` nor the server's own; nothing when
/// there is none.
std::optional<std::string> unknown_parameter(const Request& request,
                                             std::span<const std::string_view> known);

}  // namespace flux::triton

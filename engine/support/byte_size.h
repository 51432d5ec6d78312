#pragma once

#include <cstdint>
#include <string_view>

namespace flux {

/// The bytes of a size as people write it: "20GiB", "1.5 g", "4096". Units are powers of 1024
/// whatever their case: k, m, g, t, p, e, alone or with b or ib. Throws kInvalidArgument, quoting
/// it, for what is no size above 0.
int64_t parse_byte_size(std::string_view text);

}  // namespace flux

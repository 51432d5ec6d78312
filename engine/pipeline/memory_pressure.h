#pragma once

#include <functional>
#include <span>
#include <string>

#include "support/error.h"
#include "support/log.h"

namespace flux {

/// One way to go on where a device's memory is too small.
struct Relief {
  /// Frees memory, or makes the work need less. Returns what it did, for the log, and an empty text
  /// when there was nothing to do: a relief is applied again and again until then.
  std::function<std::string()> apply;
  /// A warning where users see the difference: a slower step, another image.
  LogLevel level = LogLevel::kInfo;
};

/// The reliefs that are tried, in order: the cheapest first.
using Reliefs = std::span<const Relief>;

namespace memory_pressure {

/// Applies the next relief from reliefs[next] on that has anything to do, and logs it. Returns
/// whether there was one.
bool relieve(Reliefs reliefs, size_t& next, const Error& because);

}  // namespace memory_pressure

/// Runs `work`. Each time that it throws kUnavailable, the next relief that has anything to do is
/// applied and the work runs again; where none is left the error goes on. `work` may continue where
/// it failed.
template <typename Work>
auto with_relief(Reliefs reliefs, const Work& work) {
  for (size_t next = 0;;) {
    try {
      return work();
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kUnavailable ||
          !memory_pressure::relieve(reliefs, next, error)) {
        throw;
      }
    }
  }
}

}  // namespace flux

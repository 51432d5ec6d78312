#pragma once

#include <chrono>
#include <functional>
#include <optional>

#include "cli/endpoints.h"
#include "cli/ports.h"

namespace flux::cli {

/// Lets a server that is told to stop answer what it has begun. A server stops its models at once
/// unless an HTTP connection is open, and an image that is being generated for a gRPC client then
/// fails at its next step. So this holds an HTTP connection open until no request is in flight.
class Drain {
 public:
  /// Begins to hold. Does nothing where HTTP or the metrics, which tell what is in flight, are off.
  explicit Drain(const Endpoints& endpoints);

  /// Lets go once nothing is in flight. Asks the server at most every tenth of a second. `gave_up`
  /// says whether the server, meanwhile, no longer waits: what is in flight then fails, and having
  /// nothing in flight means nothing.
  void poll(const std::function<bool()>& gave_up);
  /// Whether everything that had begun has been answered, as far as was seen.
  bool done() const { return done_; }
  /// Whether the server ended although it was held, and not everything was seen to be answered: it
  /// has given up, and requests are lost.
  bool lost() const { return held_ && !done_; }

 private:
  /// Whether nothing waits or is being answered. A server that is too busy to tell is not idle, and
  /// one that tells nothing any more has given up.
  bool idle() const;

  const Endpoints& endpoints_;
  std::optional<Connection> connection_;
  bool held_ = false;
  bool done_ = false;
  std::chrono::steady_clock::time_point next_ = {};
};

}  // namespace flux::cli

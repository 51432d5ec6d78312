#pragma once

#include <chrono>
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

  /// Lets go once nothing is in flight. Asks the server at most every tenth of a second.
  void poll();
  /// Whether everything that had begun has been answered.
  bool done() const { return done_; }
  /// Whether it holds the server. One that ends meanwhile has given up, and loses requests.
  bool holds() const { return connection_.has_value(); }

 private:
  /// Whether nothing waits or is being answered. A server that is too busy to tell is not idle; one
  /// that takes no connection is.
  bool idle() const;

  const Endpoints& endpoints_;
  std::optional<Connection> connection_;
  bool done_ = false;
  std::chrono::steady_clock::time_point next_ = {};
};

}  // namespace flux::cli

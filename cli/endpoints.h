#pragma once

#include <optional>
#include <string>
#include <vector>

namespace flux::cli {

/// Where a server listens on this machine. An endpoint that is switched off has no port; one of
/// HTTP and gRPC has one.
struct Endpoints {
  std::string address;  // IPv4
  std::optional<int> http;
  std::optional<int> grpc;
  std::optional<int> metrics;
  std::optional<int> front;  // HTTP for clients of OpenAI's API

  /// Switches off what the server's own arguments switch off (--allow-http=false and the like).
  void heed(const std::vector<std::string>& arguments);
  /// Whether the server answers. It opens its ports when all models are loaded, so that one which
  /// keeps its health from us (403) is as good as one that says 200.
  bool ready() const;
  /// Lines with the addresses, and a command to try with the model `bls`, unless that is empty.
  std::string describe(const std::string& bls) const;
};

}  // namespace flux::cli

#pragma once

#include <map>
#include <string>
#include <vector>

namespace flux::front {

/// Types of the values that a request's inputs have, as the protocol writes them.
enum class ValueType { kText, kInt32, kInt64, kFloat32, kBool };

/// What the front knows of a served pipeline, from the server.
struct PipelineInfo {
  std::string id;      // what clients call it: "schnell", or "bls" where models have no prefix
  std::string prefix;  // of its models' names: "schnell_", or empty
  std::string model;   // "schnell_bls_stream"
  bool ready = false;  // whether it and the models that it calls are
  int instances = 1;   // requests at a time
  std::string default_size;  // "1024x1024" where a request names none; empty: unknown
  /// Inputs of one value a request that the model takes.
  std::map<std::string, ValueType, std::less<>> inputs;
};

}  // namespace flux::front

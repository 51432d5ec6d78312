#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "triton/c_api.h"

namespace flux::triton {

struct ModelSettings;

/// A tensor of a model as config.pbtxt must have it, without the batch dimension; -1 is free.
struct TensorSpec {
  std::string name;
  DataType type;
  std::vector<int64_t> dims;
  /// Whether config.pbtxt may lack it. One that an older convert wrote lacks newer inputs.
  bool optional = false;
};

/// What config.pbtxt must say for a model to work.
struct ModelIo {
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::vector<std::string> parameters;  // that have a meaning, besides dtype and device
  /// Sizes that the models of one checkpoint must agree on, by their names.
  std::vector<std::pair<std::string, int64_t>> shared_sizes;
  bool may_warm_up = true;  // with model_warmup
  bool decoupled = false;   // several answers to a request
};

/// Throws kInvalidArgument, naming model and field, for a config.pbtxt with which the model would
/// load and then refuse its requests: other tensors, batching of another kind. Warns of parameters
/// without a meaning.
void check_config(const ModelSettings& settings, const ModelIo& io);

}  // namespace flux::triton

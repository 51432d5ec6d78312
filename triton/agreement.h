#pragma once

#include "triton/model_io.h"
#include "triton/model_settings.h"

namespace flux::triton {

/// What a loaded model has in common with the others of its checkpoint: the dtype of the tensors
/// that they pass, and sizes. It is known to the process while it lives.
class Agreement {
 public:
  /// Throws kInvalidArgument, naming both models and what differs, when a model of the same server
  /// and prefix that is loaded says something else.
  Agreement(const ModelSettings& settings, const ModelIo& io);
  ~Agreement();
  Agreement(const Agreement&) = delete;
  Agreement& operator=(const Agreement&) = delete;

 private:
  void check_with(const Agreement& other) const;

  const Server* server_;
  std::string prefix_;
  std::string model_;
  DType dtype_;
  std::vector<std::pair<std::string, int64_t>> sizes_;
};

}  // namespace flux::triton

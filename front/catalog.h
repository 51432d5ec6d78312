#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "front/pipeline_info.h"
#include "front/triton_client.h"

namespace flux::front {

/// The pipelines of the server, as it last said.
class Catalog {
 public:
  /// `address` is the server's, for errors.
  Catalog(TritonClient& triton, std::string address);

  /// Asks the server again; `done` is called when it has answered, or has not within its time.
  void refresh(std::function<void()> done = {});

  /// Whether the server has answered the last time.
  bool is_reachable() const { return reachable_; }
  const std::vector<PipelineInfo>& pipelines() const { return pipelines_; }
  /// The pipeline that `name` stands for: its id, or the name of its model, with or without
  /// "_stream"; empty: the first one that is ready. Throws ApiError: 404 (model_not_found), with
  /// what there is, and 503 for one that is not loaded or a server that has never answered.
  const PipelineInfo& choose(const std::string& name) const;

 private:
  TritonClient& triton_;
  const std::string address_;
  bool reachable_ = false;
  bool asks_ = false;
  std::vector<std::function<void()>> waiting_;  // for the answer that is on its way
  std::vector<PipelineInfo> pipelines_;
};

}  // namespace flux::front

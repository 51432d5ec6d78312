#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "front/api_error.h"
#include "front/image_request.h"
#include "front/pipeline_info.h"

namespace flux::front {

/// A response of a pipeline while it generates.
struct StepUpdate {
  int step = 0;  // done; 0: the request has begun
  int total_steps = 0;
  std::vector<std::string> previews;        // JPEG, one for each image; empty: none now
  std::optional<double> estimated_seconds;  // until all is done
  std::vector<std::string> images;          // files; only in the last response
  int64_t seed = 0;                         // of the first image; likewise
};

/// A request to a pipeline.
struct PipelineCall {
  std::string model;  // "schnell_bls_stream"
  const ImageRequest& request;
  int preview_every = 0;   // steps; 0: no previews
  int64_t timeout_us = 0;  // 0: as long as it takes
};

/// A request that is being answered.
class RunningCall {
 public:
  virtual ~RunningCall() = default;
  /// Stops the work, within a step. Its end is reported all the same.
  virtual void cancel() = 0;
};

class Channel;

/// A client of Triton's gRPC interface. Its own thread waits for the server; what it reports runs
/// where `post` puts it.
class TritonClient {
 public:
  using Post = std::function<void(std::function<void()>)>;

  struct Reports {
    std::function<void(const StepUpdate&)> on_update;
    /// Called once, last; nothing when all went well.
    std::function<void(std::optional<ApiError>)> on_end;
  };

  /// `address` is HOST:PORT. Does not wait for the server.
  TritonClient(const std::string& address, Post post);
  /// Cancels what runs; nothing is reported any more.
  ~TritonClient();
  TritonClient(const TritonClient&) = delete;
  TritonClient& operator=(const TritonClient&) = delete;

  std::shared_ptr<RunningCall> generate(const PipelineCall& call, Reports reports);

  /// Asks which pipelines the server has; nothing when it does not answer within two seconds.
  void list_pipelines(std::function<void(std::optional<std::vector<PipelineInfo>>)> on_list);

 private:
  std::unique_ptr<Channel> channel_;
};

}  // namespace flux::front

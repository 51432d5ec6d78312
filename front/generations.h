#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>

#include "front/generation.h"
#include "front/http_server.h"
#include "front/pipeline_info.h"
#include "front/triton_client.h"
#include "front/work_rate.h"

namespace flux::front {

/// All accepted requests. As many of a pipeline's run at a time as it has instances; the others
/// wait here, in an order that a client can see, and where they cost nothing when it leaves.
class Generations {
 public:
  struct Counts {
    size_t waiting = 0;
    size_t running = 0;
    double work_seconds = 0;  // until all of them are done, as far as is known
  };

  /// `max_waiting`: for each pipeline.
  Generations(HttpServer& server, TritonClient& triton, size_t max_waiting);

  /// Takes a request; `exchange` gets its answer. `timeout`: seconds from now for all of it; 0: as
  /// long as it takes. Throws ApiError (429, with `retry_after` seconds) when too many wait.
  void add(const PipelineInfo& pipeline, ImageRequest request, double timeout,
           const std::shared_ptr<Exchange>& exchange);

  /// Whether a request for the pipeline would be taken.
  bool has_room(const PipelineInfo& pipeline) const;
  /// Seconds until a waiting request begins, at least 1.
  int retry_after(const std::string& model) const;
  /// Keeps quiet streams alive; called about once a second.
  void tick();

  /// By the pipeline's id.
  std::map<std::string, Counts> counts() const;
  /// {"running": [...], "waiting": [...]}, without prompts.
  nlohmann::ordered_json as_json() const;
  uint64_t left_waiting() const { return left_waiting_; }
  uint64_t left_running() const { return left_running_; }

 private:
  using Entry = std::shared_ptr<Generation>;
  using Clock = Generation::Clock;

  /// The requests of a pipeline.
  struct Line {
    PipelineInfo pipeline;
    WaitingLine<Entry> waiting;
    std::set<Entry> running;
    WorkRate rate;
    int usual_steps = 0;  // of a request that names none; 0: not yet known
  };

  void begin_next(Line& line);
  void run(Line& line, const Entry& entry);
  /// Gives the place of one that needs it no more to the next.
  void release(Line& line, const Entry& entry);
  void ended(Line& line, const Entry& entry, const std::optional<ApiError>& error);
  /// Stops a request whose client has left, or whose time is over.
  void stop(Line& line, const Entry& entry);
  std::optional<double> seconds_until_running_end(const Line& line, Clock::time_point now) const;
  std::optional<double> estimate(const Line& line, size_t position, Clock::time_point now) const;

  HttpServer& server_;
  TritonClient& triton_;
  const size_t max_waiting_;
  std::map<std::string, Line> lines_;  // by the pipeline's model; a line stays where it is
  uint64_t left_waiting_ = 0;
  uint64_t left_running_ = 0;
};

}  // namespace flux::front

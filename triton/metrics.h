#pragma once

#include <string>

#include "triton/c_api.h"

namespace flux::triton {

/// The counters that the backend adds to the server's own metrics.
enum class Counter {
  kStageSeconds,    // time that a stage computed
  kStageRows,       // rows that it computed
  kStageBatches,    // its executions; rows / batches is the mean batch size
  kSteps,           // denoising steps done
  kStepsCancelled,  // steps that cancelled requests no longer needed
  kImages,          // images generated
  kBytesCopied,     // bytes of inputs that could not be read where they were
  kCount
};

/// Makes the metric families of the counters, once a process. In a server without metrics it only
/// logs a warning, and the counters do nothing.
void create_metric_families();

/// The counters of one model, labelled with its name.
class Metrics {
 public:
  explicit Metrics(const std::string& model);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  /// Thread-safe.
  void add(Counter counter, double value) const;

 private:
  Metric* metrics_[static_cast<size_t>(Counter::kCount)] = {};
};

}  // namespace flux::triton

#pragma once

#include <string>

#include "triton/c_api.h"

namespace flux::triton {

/// What is counted beside the server's own metrics.
enum class Counter {
  kStageSeconds,    // flux_stage_seconds_total: time a stage computed
  kStageRows,       // flux_stage_rows_total: rows it computed
  kStageBatches,    // flux_stage_batches_total: executions; rows / batches is the mean batch size
  kSteps,           // flux_steps_total: denoising steps done
  kStepsCancelled,  // flux_steps_cancelled_total: steps that a cancelled request no longer needed
  kImages,          // flux_images_total: images drawn
  kBytesCopied,     // flux_input_bytes_copied_total: inputs that could not be read where they were
  kCount
};

/// Makes the families of the counters, once a process. Without metrics in the server it does
/// nothing, and neither do the counters.
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

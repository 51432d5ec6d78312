#pragma once

#include <string>

#include "triton/c_api.h"

namespace flux::triton {

/// What the backend adds to the server's own metrics.
enum class Measure {
  kStageSeconds,    // time that a stage computed
  kStageRows,       // rows that it computed
  kStageBatches,    // its executions; rows / batches is the mean batch size
  kSteps,           // denoising steps done
  kStepsCancelled,  // steps that cancelled requests no longer needed
  kImages,          // images generated
  kBytesCopied,     // bytes of inputs that could not be read where they were
  kWeightLoads,     // times that the weights came to the device
  kLoraLoads,       // adapters that were packed for the model
  kLoraHits,        // adapters of rows that were there already
  kInFlight,        // requests that are being answered: gauges from here on, counters before
  kWeightBytes,     // that the weights have on the device
  kLoraBytes,       // that its adapters have
  kStepsWaiting,    // requests that wait for their next step
  kStepSeconds,     // that the steps of its requests still take, estimated
  kStepError,       // the median error of such estimates, for a step
  kCount
};

/// Makes the metric families, once a process. In a server without metrics it only logs a warning,
/// and nothing is counted.
void create_metric_families();

/// The metrics of one model, labelled with its name.
class Metrics {
 public:
  explicit Metrics(const std::string& model);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  /// Thread-safe. Only a gauge takes a negative value.
  void add(Measure measure, double value) const;
  /// Sets a gauge. Thread-safe.
  void set(Measure gauge, double value) const;

 private:
  Metric* metrics_[static_cast<size_t>(Measure::kCount)] = {};
};

/// Counts requests as in flight while it lives.
class InFlightScope {
 public:
  InFlightScope(const Metrics& metrics, size_t requests)
      : metrics_(metrics), requests_(static_cast<double>(requests)) {
    metrics_.add(Measure::kInFlight, requests_);
  }
  ~InFlightScope() { metrics_.add(Measure::kInFlight, -requests_); }
  InFlightScope(const InFlightScope&) = delete;
  InFlightScope& operator=(const InFlightScope&) = delete;

 private:
  const Metrics& metrics_;
  double requests_;
};

}  // namespace flux::triton

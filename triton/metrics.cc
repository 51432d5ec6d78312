#include "triton/metrics.h"

#include <iterator>

#include "triton/errors.h"

namespace flux::triton {
namespace {

constexpr auto kMeasures = static_cast<size_t>(Measure::kCount);

struct Family {
  Measure measure;
  const char* name;
  const char* description;
  MetricKind kind = MetricKind::kCounter;
};

constexpr Family kFamilies[] = {
    {Measure::kStageSeconds, "flux_stage_seconds_total", "Seconds that the model computed"},
    {Measure::kStageRows, "flux_stage_rows_total",
     "Rows (prompts, steps of images, images) that the model computed"},
    {Measure::kStageBatches, "flux_stage_batches_total",
     "Executions of the model; rows / batches is the mean batch size"},
    {Measure::kSteps, "flux_steps_total", "Denoising steps done for images"},
    {Measure::kStepsCancelled, "flux_steps_cancelled_total",
     "Denoising steps that cancelled requests no longer needed"},
    {Measure::kImages, "flux_images_total", "Images generated"},
    {Measure::kBytesCopied, "flux_input_bytes_copied_total",
     "Bytes of tensors that came in pieces or unaligned"},
    {Measure::kWeightLoads, "flux_weight_loads_total",
     "Times that the model's weights were brought to the device"},
    {Measure::kLoraLoads, "flux_lora_loads_total",
     "Times that an adapter was read and packed for the model"},
    {Measure::kLoraHits, "flux_lora_hits_total",
     "Times that an adapter of a row was there already; each step asks again"},
    {Measure::kInFlight, "flux_requests_in_flight", "Requests that the model is answering",
     MetricKind::kGauge},
    {Measure::kWeightBytes, "flux_weight_bytes", "Bytes of the model's weights on the device",
     MetricKind::kGauge},
    {Measure::kLoraBytes, "flux_lora_bytes", "Bytes of the model's adapters", MetricKind::kGauge},
    {Measure::kStepsWaiting, "flux_steps_waiting_requests",
     "Requests of the model that wait for their next denoising step", MetricKind::kGauge},
    {Measure::kStepSeconds, "flux_steps_ahead_seconds",
     "Estimated seconds of all denoising steps that requests of the model still need",
     MetricKind::kGauge},
    {Measure::kStepError, "flux_step_estimate_error",
     "Median relative error of the estimated seconds of the last 255 denoising steps",
     MetricKind::kGauge},
};

constexpr bool families_are_in_order() {
  for (size_t i = 0; i < kMeasures; ++i) {
    if (kFamilies[i].measure != static_cast<Measure>(i)) return false;
  }
  return true;
}
static_assert(std::size(kFamilies) == kMeasures && families_are_in_order(),
              "each Measure has its family, at its own index");

/// The families; null where the server was built without metrics. They are never deleted: a server
/// does not unregister families, so they live as long as the process.
MetricFamily* g_families[kMeasures] = {};

}  // namespace

void create_metric_families() {
  for (size_t i = 0; i < kMeasures; ++i) {
    if (g_families[i] != nullptr) continue;
    ServerError* error = api().TRITONSERVER_MetricFamilyNew(
        &g_families[i], kFamilies[i].kind, kFamilies[i].name, kFamilies[i].description);
    if (error == nullptr) continue;
    g_families[i] = nullptr;
    log_and_drop(error, "metrics are off");
    return;
  }
}

Metrics::Metrics(const std::string& model) {
  Label* label = api().TRITONSERVER_ParameterNew("model", ParameterType::kString, model.c_str());
  const Label* labels[] = {label};
  for (size_t i = 0; i < kMeasures; ++i) {
    if (g_families[i] == nullptr) continue;
    ServerError* error = api().TRITONSERVER_MetricNew(&metrics_[i], g_families[i], labels, 1);
    if (error != nullptr) metrics_[i] = nullptr;
    log_and_drop(error, "creating a metric");
  }
  api().TRITONSERVER_ParameterDelete(label);
}

Metrics::~Metrics() {
  for (Metric* metric : metrics_) {
    if (metric != nullptr) {
      log_and_drop(api().TRITONSERVER_MetricDelete(metric), "deleting a metric");
    }
  }
}

void Metrics::add(Measure measure, double value) const {
  Metric* metric = metrics_[static_cast<size_t>(measure)];
  if (metric != nullptr) {
    log_and_drop(api().TRITONSERVER_MetricIncrement(metric, value), "counting");
  }
}

void Metrics::set(Measure gauge, double value) const {
  Metric* metric = metrics_[static_cast<size_t>(gauge)];
  if (metric != nullptr) {
    log_and_drop(api().TRITONSERVER_MetricSet(metric, value), "setting a gauge");
  }
}

}  // namespace flux::triton

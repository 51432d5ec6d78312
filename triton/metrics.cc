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
    {Measure::kInFlight, "flux_requests_in_flight", "Requests that the model is answering",
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

}  // namespace flux::triton

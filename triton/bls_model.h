#pragma once

#include "pipeline/family.h"
#include "pipeline/image_texts.h"
#include "pipeline/request.h"
#include "scheduling/step_scheduler.h"
#include "triton/bls_request.h"
#include "triton/served_model.h"

namespace flux::triton {

/// The orchestrator: FluxPipeline.__call__ over the other four models. It holds no weights.
class BlsModel final : public ServedModel {
 public:
  explicit BlsModel(const ModelSettings& settings);

  /// Each request of a batch has a thread of its own, so that no request waits for another and the
  /// stages can batch the steps of all of them.
  void execute(InstanceState& instance,
               std::span<const std::unique_ptr<Request>> requests) const override;
  /// Throws unless the other four models are ready.
  void check_ready() const override;

 private:
  /// Generates the images of one request and answers it. Never throws. Returns the number of rows.
  int64_t answer(Instance* instance, Context& ctx, Request& request,
                 uint64_t start_ns) const noexcept;
  void generate(Context& ctx, Request& request) const;
  StepScheduler::Job job_of(const Request& request, const BlsRequest& asked) const;
  ModelIo io() const;
  void check_defaults() const;

  const Family& family_;
  FluxConfig config_;
  RequestLimits limits_;
  ImageOrigin origin_;
};

}  // namespace flux::triton

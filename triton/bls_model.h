#pragma once

#include "pipeline/family.h"
#include "pipeline/image_texts.h"
#include "pipeline/request.h"
#include "scheduling/step_scheduler.h"
#include "triton/bls_request.h"
#include "triton/served_model.h"

namespace flux::triton {

/// The orchestrator: FluxPipeline.__call__ over the four stages. It holds no weights. It is served
/// twice: as `bls`, and as `bls_stream`, which answers with every step.
class BlsModel final : public ServedModel {
 public:
  explicit BlsModel(const ModelSettings& settings);

  /// Each request of a batch has a thread of its own, so that no request waits for another and the
  /// stages can batch the steps of all of them.
  void execute(InstanceState& instance,
               std::span<const std::unique_ptr<Request>> requests) const override;
  /// Its many instances hold tensors only while they answer.
  std::shared_ptr<MemoryPool> shared_memory() const override { return memory_; }
  /// Throws unless the four stages are ready.
  void check_ready() const override;

 private:
  /// Generates the images of one request and answers it. Never throws. Returns the number of rows.
  int64_t answer(Instance* instance, Context& ctx, Request& request,
                 uint64_t start_ns) const noexcept;
  void generate(Context& ctx, Request& request) const;
  /// Writes what the images are answered as, and the line of the log.
  void write_outputs(Request& request, const BlsRequest& asked, const GenerateResult& result) const;
  /// Of the steps of the model's requests, to the metrics.
  void report_load() const noexcept;
  StepScheduler::Job job_of(const Request& request, const BlsRequest& asked) const;
  ModelIo io() const;
  void check_defaults() const;

  Answers answers_;
  std::shared_ptr<MemoryPool> memory_;
  LoraDirectory loras_;
  const Family& family_;
  FluxConfig config_;
  RequestLimits limits_;
  ImageOrigin origin_;
};

}  // namespace flux::triton

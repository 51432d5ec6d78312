#pragma once

#include <functional>
#include <string>

#include "pipeline/stages.h"
#include "scheduling/step_scheduler.h"
#include "triton/model_settings.h"
#include "triton/nested_call.h"
#include "triton/request.h"

namespace flux::triton {

/// The stages as models of the same server and checkpoint. Each call becomes one request a row; all
/// are in flight at once, and the server batches them with those of other images.
class TritonStages final : public Stages {
 public:
  /// The stages are those of `caller`, and work for `request`: its cancellation and deadline reach
  /// the nested requests. The device of `ctx` holds the tensors that pass between the stages. Both
  /// must outlive the stages.
  TritonStages(const ModelSettings& caller, const Request& request, Context& ctx)
      : server_(caller.server), prefix_(caller.kind.prefix), request_(request), ctx_(ctx) {}

  /// Lets the transformer take its steps in turns, until the first image is decoded.
  void take_turns(std::unique_ptr<StepScheduler::Turns> turns) { turns_ = std::move(turns); }

  Context& context() override { return ctx_; }
  std::vector<TextEmbeddings> encode(std::span<const TextInput> rows) override;
  void transformer(std::span<const TransformerInput> rows) override;
  Tensor decode(const ConstTensor& latents) override;

 private:
  NestedCall& add_call(std::list<NestedCall>& calls, StageKind stage) const;
  /// Starts every call. The values of their inputs must be there (but see predict()).
  void start_all(std::list<NestedCall>& calls) const;
  /// Starts the calls that predict the noise of `rows`, and waits for their answers. The rows are
  /// there when `ready` has been reached; null: they are there. Returns whether the stage took part
  /// in the handover.
  bool predict(std::span<const TransformerInput> rows, const std::shared_ptr<const Fence>& ready);
  /// Waits for every call; the first failure cancels the others and is thrown.
  void wait_all(std::list<NestedCall>& calls) const;

  Server* server_;
  std::string prefix_;  // of the stages' names
  const Request& request_;
  Context& ctx_;
  std::unique_ptr<StepScheduler::Turns> turns_;
  bool handing_over_ = false;  // the transformer took part in the last step's handover
};

}  // namespace flux::triton

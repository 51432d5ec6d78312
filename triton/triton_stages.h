#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/request.h"
#include "pipeline/stages.h"
#include "scheduling/step_scheduler.h"
#include "triton/model_settings.h"
#include "triton/nested_call.h"
#include "triton/request.h"
#include "triton/stage_adapters.h"

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

  /// Opens the adapters of rows, which its calls name from then on. Throws kInvalidArgument, in the
  /// client's words, for files that cannot be used.
  void open_adapters(std::span<const ImageParams> rows, const FluxConfig& config);
  /// The names of tensors of the rows' adapters that change nothing: after their images.
  std::vector<std::string> unused_tensors(std::span<const ImageParams> rows) const;
  /// Lets the transformer take its steps in turns, until the first image is decoded.
  void take_turns(std::unique_ptr<StepScheduler::Turns> turns) { turns_ = std::move(turns); }
  /// What the request can expect, while it takes turns.
  std::optional<StepScheduler::Outlook> outlook() const;
  /// Lets others take steps while the request waits for something else than its turn.
  void pause_turns();
  /// Ends calls, those in flight and those to come, as if the request were cancelled. Any thread
  /// may call it.
  void stop() { stopped_ = true; }

  Context& context() override { return ctx_; }
  std::vector<TextEmbeddings> encode(std::span<const TextInput> rows) override;
  std::vector<Tensor> encode_image(const ConstTensor& image,
                                   std::span<const PosteriorDraw> draws) override;
  void transformer(std::span<const TransformerInput> rows) override;
  Tensor decode(const ConstTensor& latents) override;

 private:
  /// `adapters`: those of the row that the call is for.
  NestedCall& add_call(std::list<NestedCall>& calls, StageKind stage,
                       std::span<const AdapterChoice> adapters) const;
  /// Rows with one group of image tokens, as the stage takes them: a reference's tokens follow the
  /// image's own. On a GPU they are there when the context has got to it.
  std::vector<TransformerInput> joined(std::span<const TransformerInput> rows) const;
  /// Starts every call. The values of their inputs must be there (but see predict()).
  void start_all(std::list<NestedCall>& calls) const;
  /// Starts the calls that predict the noise of joined() `rows`, and waits for their answers. The
  /// rows are there when `ready` has been reached; null: they are there. Returns whether the stage
  /// took part in the handover.
  bool predict(std::span<const TransformerInput> rows, const std::shared_ptr<const Fence>& ready);
  /// Waits for every call; the first failure cancels the others and is thrown.
  void wait_all(std::list<NestedCall>& calls) const;
  bool stopped() const { return stopped_ || request_.stopped(); }

  Server* server_;
  std::string prefix_;  // of the stages' names
  const Request& request_;
  Context& ctx_;
  AdapterSet adapters_{adapter_shelf()};
  std::unique_ptr<StepScheduler::Turns> turns_;
  std::atomic<bool> stopped_ = false;
  bool handing_over_ = false;  // the transformer took part in the last step's handover
};

}  // namespace flux::triton

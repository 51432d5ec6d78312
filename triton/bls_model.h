#pragma once

#include "pipeline/family.h"
#include "pipeline/request.h"
#include "triton/model.h"

namespace flux::triton {

/// The orchestrator: FluxPipeline.__call__ over the other four models. It holds no weights.
class BlsModel final : public ServedModel {
 public:
  explicit BlsModel(const ModelSettings& settings);

  /// Each request of a batch is drawn on a thread of its own, so that none waits for another and
  /// the stages see all their steps at once.
  void execute(InstanceState& instance,
               std::span<const std::unique_ptr<Request>> requests) const override;
  /// It is ready when the other four are.
  void check_ready() const override;

 private:
  /// Draws one request and answers it. Never throws. Returns the rows drawn.
  int64_t answer(Instance* instance, Context& ctx, Request& request,
                 uint64_t start_ns) const noexcept;
  void draw(Context& ctx, Request& request) const;
  void check_defaults() const;

  const Family& family_;
  FluxConfig config_;
  RequestLimits limits_;
};

}  // namespace flux::triton

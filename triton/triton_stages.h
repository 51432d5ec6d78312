#pragma once

#include <functional>
#include <string>

#include "ops/backend.h"
#include "pipeline/stages.h"
#include "triton/nested_call.h"
#include "triton/request.h"

namespace flux::triton {

/// The stages as models of the same server: each call becomes requests to them, all in flight at
/// once, and the server batches them with those of other images.
class TritonStages final : public Stages {
 public:
  /// `request`: on whose behalf; its cancellation and deadline reach the nested requests. Must
  /// outlive the stages.
  TritonStages(Server* server, const Request& request)
      : server_(server), request_(request), context_(backend_for(Device{}), 1) {}

  Context& context() override { return context_; }
  std::vector<TextEmbeddings> encode(std::span<const TextInput> rows) override;
  void transformer(std::span<const TransformerInput> rows) override;
  Tensor decode(const Tensor& latents) override;

 private:
  NestedCall& add_call(std::list<NestedCall>& calls, StageKind stage) const;
  /// Waits for every call; the first failure cancels the others and is thrown.
  void wait_all(std::list<NestedCall>& calls) const;

  Server* server_;
  const Request& request_;
  Context context_;  // latents between the stages are in host memory
};

}  // namespace flux::triton

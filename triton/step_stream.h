#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "triton/previews.h"

namespace flux::triton {

/// The answers to a request of `bls_stream`: one when it begins, one after each step but the last,
/// and what the last answer, with the images, says of the steps. Each answer is sent after the one
/// before it; that of a step with previews when they are made, beside the next step.
class StepStream {
 public:
  /// All of these must outlive it. `stages` take turns.
  StepStream(const ModelSettings& model, const FluxConfig& config, Request& request,
             const BlsRequest& asked, TritonStages& stages);

  /// Sends the first answer. Before it the server does not tell when an HTTP client has left.
  void begin();
  /// For GenerateObserver. They throw what making and sending previews throws.
  void on_step(int done, int total);
  void on_predicted(int done, std::span<const ConstTensor> predicted);
  int preview_every() const { return preview_every_; }
  /// Writes the outputs of the last answer that are not those of `bls`.
  void end();

 private:
  using Outlook = std::optional<StepScheduler::Outlook>;

  bool has_preview(int done, int total) const;
  void send(Response& answer, int done, const Outlook& outlook,
            const std::vector<std::string>& previews);

  Request& request_;
  const BlsRequest& asked_;
  TritonStages& stages_;
  int preview_every_ = 0;  // 0: there are none, or nobody wants them
  std::optional<Previews> previews_;
};

}  // namespace flux::triton

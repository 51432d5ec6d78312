#pragma once

#include <functional>
#include <future>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "pipeline/flux_config.h"
#include "runtime/fence.h"
#include "triton/bls_request.h"
#include "triton/triton_stages.h"

namespace flux::triton {

/// Makes the previews of a request beside its steps, on a thread and in a context of their own: a
/// reduced latent through the decoder, and JPEG. They take no turn of the steps' scheduler.
class Previews {
 public:
  /// Given the files of all images, in order, on the thread that made them; `ctx` is its context.
  using Done = std::function<void(Context& ctx, const std::vector<std::string>& files)>;

  /// All of these must outlive it.
  Previews(const ModelSettings& caller, const FluxConfig& config, const Request& request,
           const BlsRequest& asked);
  /// Stops what is being made, and waits until it has ended.
  ~Previews();
  Previews(const Previews&) = delete;
  Previews& operator=(const Previews&) = delete;

  /// Begins the previews of a step. Those of another must not be in the making: see wait().
  /// `predicted`: packed latents of all images; they are there when `ready` has been reached (null:
  /// they are there).
  void begin(std::span<const ConstTensor> predicted, std::shared_ptr<const Fence> ready, Done done);
  /// Whether wait() would return at once.
  bool are_made() const;
  /// Waits until the previews that were begun are made and `done` has returned. Throws what failed.
  void wait();

 private:
  std::string make(const ImageParams& row, const ConstTensor& predicted);

  const FluxConfig& config_;
  const BlsRequest& asked_;
  Context ctx_;
  TritonStages stages_;
  std::future<void> making_;
};

}  // namespace flux::triton

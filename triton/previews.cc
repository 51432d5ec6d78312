#include "triton/previews.h"

#include <chrono>
#include <utility>

#include "image/image_format.h"
#include "ops/registry.h"
#include "pipeline/latents.h"
#include "runtime/transfer.h"
#include "support/base64.h"
#include "triton/errors.h"
#include "triton/memory.h"

namespace flux::triton {
namespace {

/// Of a picture that is looked at for a moment.
constexpr int kQuality = 85;
/// Beside a step, which has the others.
constexpr int kThreads = 1;

}  // namespace

Previews::Previews(const ModelSettings& caller, const FluxConfig& config, const Request& request,
                   const BlsRequest& asked)
    : config_(config),
      asked_(asked),
      ctx_(backend_for(caller.device), kThreads, pipeline_memory(caller.device)),
      stages_(caller, request, ctx_) {}

Previews::~Previews() {
  stages_.stop();
  if (making_.valid()) making_.wait();
  // What it had in use is there for others from now on.
  log_and_drop(guard([&] { finish(ctx_); }), "waiting for a preview's GPU work");
}

void Previews::begin(std::span<const ConstTensor> predicted, std::shared_ptr<const Fence> ready,
                     Done done) {
  making_ =
      std::async(std::launch::async,
                 [this, latents = std::vector<ConstTensor>(predicted.begin(), predicted.end()),
                  ready = std::move(ready), done = std::move(done)] {
                   wait_for(ctx_, ready.get());
                   std::vector<std::string> files;
                   for (size_t i = 0; i < latents.size(); ++i) {
                     files.push_back(make(asked_.rows[row_of(asked_.rows, i)], latents[i]));
                   }
                   done(ctx_, files);
                 });
}

bool Previews::are_made() const {
  return !making_.valid() || making_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

void Previews::wait() {
  if (making_.valid()) making_.get();
}

std::string Previews::make(const ImageParams& row, const ConstTensor& predicted) {
  const LatentSize size = latent_size(config_, row.height, row.width);
  const int64_t factor = reduction_to(size, config_.vae, asked_.previews.size);
  const Tensor reduced = unpack_reduced(ctx_, predicted, size, config_.vae, factor);
  const ConstTensor pixels = to_pixels(ctx_, stages_.decode(reduced));
  const std::string file = encode_image(ImageFormat::kJpeg, pixels, kQuality, {});
  return asked_.format.base64 ? encode_base64(file) : file;
}

}  // namespace flux::triton

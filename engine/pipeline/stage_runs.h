#pragma once

#include <memory>
#include <span>
#include <vector>

#include "models/flux1/conditioning_cache.h"
#include "models/vae/vae_decoder.h"
#include "models/vae/vae_encoder.h"
#include "pipeline/memory_pressure.h"

/// Runs of single models within a device's memory, for every caller that holds models: LocalStages
/// and the server's stages. `more`: reliefs of the caller's own, tried after those of the run.
namespace flux {

/// One step of each row: rows that the device computes faster together than one by one are computed
/// together. Where memory is short the batch is halved, then StepStates and scratch memory are
/// dropped. A row's bits do not depend on any of that. `nearly_done`: see FluxTransformer. No scope
/// of the context's workspace may be open.
void run_transformer_step(Context& ctx, ConditioningCache& cache,
                          std::vector<TransformerInput> rows, Reliefs more,
                          std::shared_ptr<const Fence>* nearly_done);

/// VaeEncoder::forward(), and where memory is short the same in tiles, with a warning: their seams
/// are faint. `before_tiles`: reliefs that are tried before. Returns the moments, in host memory,
/// where latents are drawn from them. No scope of the context's workspace may be open.
ConstTensor run_encoder(Context& ctx, const VaeEncoder& vae, const ConstTensor& image,
                        Reliefs before_tiles, Reliefs more = {});

/// VaeDecoder::forward() likewise.
void run_decoder(Context& ctx, const VaeDecoder& vae, const ConstTensor& latents, const Tensor& out,
                 Reliefs before_tiles, Reliefs more = {});

}  // namespace flux

#pragma once

#include "models/vae_decoder.h"

namespace flux {

/// Decodes a picture tile by tile, for when it does not fit into memory whole: tiles of the size
/// that the model was trained at, a quarter of it overlapping and blended. Source:
/// AutoencoderKL.tiled_decode of diffusers, with the same tiles. Each tile is normalised by itself,
/// so the picture differs a little from one decoded whole.
///
/// latents, out: as VaeDecoder::forward(). Throws as it does, also kUnavailable when a tile does
/// not fit either.
void decode_in_tiles(Context& ctx, const VaeDecoder& vae, const Tensor& latents, const Tensor& out);

/// forward(); where memory runs out and there is more than one tile, decode_in_tiles() with a
/// warning, and without what the workspace held: no scope of it may be open.
void decode_within_memory(Context& ctx, const VaeDecoder& vae, const Tensor& latents,
                          const Tensor& out);

}  // namespace flux

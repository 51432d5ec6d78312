#pragma once

#include "models/vae/vae_decoder.h"

namespace flux {

/// Decodes an image tile by tile, for when it does not fit into memory whole: tiles of the size
/// that the model was trained at, a quarter of it overlapping and blended. Source:
/// AutoencoderKL.tiled_decode of diffusers, with the same tiles. Each tile is normalised by itself,
/// so the image differs a little from one decoded whole.
///
/// latents, out: as VaeDecoder::forward(). Throws as it does, also kUnavailable when a tile does
/// not fit either.
void decode_in_tiles(Context& ctx, const VaeDecoder& vae, const ConstTensor& latents,
                     const Tensor& out);

/// The side of a tile in pixels.
int64_t tile_side(const VaeConfig& config);
/// Whether latents of this size are more than one tile.
bool needs_tiles(const VaeConfig& config, const ConstTensor& latents);

}  // namespace flux

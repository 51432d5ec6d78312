#pragma once

#include "models/vae/vae_decoder.h"
#include "models/vae/vae_encoder.h"

/// Images that do not fit into memory whole, tile by tile: tiles of the size that the model was
/// trained at, a quarter of it overlapping and blended. Source: AutoencoderKL._tiled_encode and
/// tiled_decode of diffusers, with the same tiles. Each tile is normalised and attends by itself,
/// so the result differs a little from that of a whole image.
namespace flux {

/// image, moments: as VaeEncoder::forward(); moments in host memory. Blended in f32 and rounded to
/// T once. Throws as it does, also kUnavailable when a tile does not fit either.
void encode_in_tiles(Context& ctx, const VaeEncoder& vae, const ConstTensor& image,
                     const Tensor& moments);

/// latents, out: as VaeDecoder::forward(). Throws as it does, also kUnavailable when a tile does
/// not fit either.
void decode_in_tiles(Context& ctx, const VaeDecoder& vae, const ConstTensor& latents,
                     const Tensor& out);

/// The side of a tile in pixels.
int64_t tile_side(const VaeConfig& config);

}  // namespace flux

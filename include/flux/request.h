#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace flux {

/// A file that changes the models for one request: a LoRA, LoKr, LoHa or DoRA, in any dialect.
struct AdapterFile {
  std::string file;
  double scale = 1.0;  // -100 to 100; what it changes is multiplied with it
};

/// Pixels of an image that a request starts from, or of its mask; no pixels: none. Copies share
/// them.
struct InputImage {
  int64_t height = 0;
  int64_t width = 0;
  int64_t channels = 3;                                     // 3: RGB; 1: grey, which a mask may be
  std::shared_ptr<const std::vector<uint8_t>> pixels = {};  // height x width x channels, row by row

  explicit operator bool() const { return pixels != nullptr; }
};

/// One prompt, with the arguments of diffusers' FluxPipeline.__call__; with an image those of
/// FluxImg2ImgPipeline, with a mask, too, those of FluxInpaintPipeline. An absent value takes its
/// default; what is not allowed is refused, naming the value and the range.
struct Request {
  std::optional<std::string> prompt;           // required: UTF-8, not blank, at most 64 KiB
  std::optional<std::string> prompt_2;         // for T5, where it differs from that for CLIP
  std::optional<std::string> negative_prompt;  // used when true_cfg_scale is above 1
  std::optional<double> true_cfg_scale;        // 1 to 1000000; default 1
  std::optional<int64_t> num_inference_steps;  // 1 to 1000; 28 with guidance embeddings, else 4
  std::optional<double> guidance_scale;        // 0 to 100; default 3.5
  std::optional<int64_t> height;  // pixels, a multiple of 16; default the checkpoint's, FLUX: 1024
  std::optional<int64_t> width;
  std::optional<int64_t> seed;  // 0 or more, image k has seed + k; default a random one
  std::optional<int64_t> num_images_per_prompt;  // 1 to 16; default 1
  std::optional<int64_t> max_sequence_length;    // T5 tokens, 1 to 512; default 512 or 256
  std::optional<int64_t> quality;                // of JPEG and WebP, 1 to 100; default 95
  std::vector<AdapterFile> adapters;             // at most 16; their changes add up
  /// What the checkpoint's pipeline makes of an image, resized to height x width: FluxPipeline
  /// starts from it, Kontext edits it (and resizes it to a size of its own), Fill fills a part of
  /// it, for Canny and Depth it is the control image. Fill, Canny and Depth need one.
  InputImage image;
  /// Of the image, resized with it: what is 128 or more is made anew. FluxPipeline's and Fill's,
  /// which needs one.
  InputImage mask;
  /// Of the change, above 0, at most 1; FluxPipeline's, default 0.6, and Fill's, default 1.
  std::optional<double> strength;
};

}  // namespace flux

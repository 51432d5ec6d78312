#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace flux {

/// One prompt, with the arguments of diffusers' FluxPipeline.__call__. An absent value takes its
/// default; what is not allowed is refused, naming the value and the range.
struct Request {
  std::optional<std::string> prompt;           // required: UTF-8, not blank, at most 64 KiB
  std::optional<std::string> prompt_2;         // for T5, where it differs from that for CLIP
  std::optional<std::string> negative_prompt;  // used when true_cfg_scale is above 1
  std::optional<double> true_cfg_scale;        // 1 or more; default 1
  std::optional<int64_t> num_inference_steps;  // 1 to 1000; 28 with guidance embeddings, else 4
  std::optional<double> guidance_scale;        // 0 to 100; default 3.5
  std::optional<int64_t> height;  // pixels, a multiple of 16; default the checkpoint's, FLUX: 1024
  std::optional<int64_t> width;
  std::optional<int64_t> seed;  // 0 or more, image k has seed + k; default a random one
  std::optional<int64_t> num_images_per_prompt;  // 1 to 16; default 1
  std::optional<int64_t> max_sequence_length;    // T5 tokens, 1 to 512; default 512 or 256
  std::optional<int64_t> quality;                // of JPEG and WebP, 1 to 100; default 95
};

}  // namespace flux

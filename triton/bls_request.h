#pragma once

#include <optional>
#include <string>
#include <vector>

#include "pipeline/image_texts.h"
#include "pipeline/request.h"
#include "pipeline/text_to_image.h"
#include "triton/lora_directory.h"
#include "triton/request.h"

namespace flux::triton {

/// What images are answered as: pixels, or files.
struct OutputFormat {
  std::string name = "raw";         // of the request
  std::optional<ImageFormat> file;  // nothing: pixels
  bool base64 = false;              // files as text
};

/// How often a pipeline answers a request: `bls` once, `bls_stream` with every step.
enum class Answers { kOnce, kEveryStep };

/// What `bls_stream` shows of images on their way.
struct PreviewSettings {
  int every = 1;       // steps; 0: nothing
  int64_t size = 256;  // pixels of the longest side, at most
};

/// A request to a pipeline, checked.
struct BlsRequest {
  std::vector<ImageParams> rows;
  OutputFormat format;
  PreviewSettings previews;  // with Answers::kEveryStep
};

/// Reads inputs and the request parameters of the same names (an input wins), and checks them.
/// `loras`: what `lora` names files of.
/// Throws kInvalidArgument naming the input, the value and what is allowed.
BlsRequest read_bls_request(const Request& request, const FluxConfig& config,
                            const RequestLimits& limits, const LoraDirectory& loras,
                            Answers answers);

/// Writes `images` or `encoded_images`, and `seed`, as far as the client wants them.
void write_bls_outputs(Request& request, const BlsRequest& asked, const GenerateResult& result,
                       const ImageOrigin& origin);

}  // namespace flux::triton

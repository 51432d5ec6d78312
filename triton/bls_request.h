#pragma once

#include <optional>
#include <string>
#include <vector>

#include "pipeline/image_texts.h"
#include "pipeline/request.h"
#include "pipeline/text_to_image.h"
#include "triton/request.h"

namespace flux::triton {

/// What images are answered as: pixels, or files.
struct OutputFormat {
  std::string name = "raw";         // of the request
  std::optional<ImageFormat> file;  // nothing: pixels
  bool base64 = false;              // files as text
};

/// A request to `bls`, checked.
struct BlsRequest {
  std::vector<ImageParams> rows;
  OutputFormat format;
};

/// Reads inputs and the request parameters of the same names (an input wins), and checks them.
/// Throws kInvalidArgument naming the input, the value and what is allowed.
BlsRequest read_bls_request(const Request& request, const FluxConfig& config,
                            const RequestLimits& limits);

/// Writes `images` or `encoded_images`, and `seed`, as far as the client wants them.
void write_bls_outputs(Request& request, const BlsRequest& asked, const GenerateResult& result,
                       const ImageOrigin& origin);

}  // namespace flux::triton

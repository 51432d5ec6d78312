#pragma once

#include <vector>

#include "pipeline/request.h"
#include "pipeline/text_to_image.h"
#include "triton/request.h"

namespace flux::triton {

enum class OutputFormat { kRaw, kPng, kPngBase64 };

/// A request to `bls`, checked.
struct BlsRequest {
  std::vector<ImageParams> rows;
  OutputFormat format = OutputFormat::kRaw;
};

/// Reads inputs and the request parameters of the same names (an input wins), and checks them.
/// Throws kInvalidArgument naming the input, the value and what is allowed.
BlsRequest read_bls_request(const Request& request, const FluxConfig& config,
                            const RequestLimits& limits);

/// Writes `images` or `encoded_images`, and `seed`, as far as the client wants them.
void write_bls_outputs(Request& request, const BlsRequest& asked, const GenerateResult& result);

}  // namespace flux::triton

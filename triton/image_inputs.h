#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "pipeline/request.h"
#include "triton/model_io.h"
#include "triton/row_values.h"

namespace flux::triton {

/// The inputs of a pipeline that images and their masks come in, as config.pbtxt may have them:
/// pixels as `image` and `mask_image`, files as `encoded_image` and `encoded_mask`, and `strength`.
std::vector<TensorSpec> image_input_specs();
/// Those that may be request parameters, and kAlphaMask.
std::span<const std::string_view> image_parameters();

/// A parameter, true or false: whether masks are as OpenAI has them. Then what is transparent in
/// `encoded_mask` is generated anew, or in `encoded_image` where there is no mask and the pipeline
/// takes one; files without transparent pixels are what they are without the parameter.
inline constexpr const char* kAlphaMask = "alpha_mask";

/// Throws kInvalidArgument, saying what to do, where pixels are given as a request parameter.
void refuse_pixel_parameters(const Request& request);

/// Reads them into the rows. A blank text stands for a row without an image or mask; what is no
/// tensor counts for all rows. Returns the names under which they came, for errors. Throws
/// kInvalidArgument naming the input, what was found and what is allowed; bounds are those of
/// ImageBounds, and hold before a file is decoded.
ImageNames read_image_inputs(const Request& request, const RowValues& values,
                             const PipelineKindInfo& kind, std::vector<flux::Request>& rows);

}  // namespace flux::triton

#pragma once

#include "pipeline/flux_config.h"

namespace flux {

/// The size that FluxKontextPipeline draws where `asked` is: as many pixels as `area` has, in the
/// aspect that was asked for, in multiples of `multiple`.
ImageSize kontext_size(ImageSize asked, ImageSize area, int64_t multiple);

/// The size that a reference image is resized to: of the preferred ones that whose aspect is the
/// nearest, the narrower one of two, in multiples of `multiple`. Throws kInvalidArgument for an
/// image with a side below that.
ImageSize kontext_reference_size(ImageSize image, int64_t multiple);

}  // namespace flux

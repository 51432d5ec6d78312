// Source: diffusers' FluxKontextPipeline. Nothing but the noise is drawn: the reference is the mode
// of its distribution.
#include "pipeline/kontext.h"

#include <array>
#include <cmath>

#include "pipeline/image_start.h"
#include "support/error.h"

namespace flux {
namespace {

/// PREFERRED_KONTEXT_RESOLUTIONS: width, height.
constexpr std::array<std::array<int64_t, 2>, 17> kPreferred{{
    {672, 1568},
    {688, 1504},
    {720, 1456},
    {752, 1392},
    {800, 1328},
    {832, 1248},
    {880, 1184},
    {944, 1104},
    {1024, 1024},
    {1104, 944},
    {1184, 880},
    {1248, 832},
    {1328, 800},
    {1392, 752},
    {1456, 720},
    {1504, 688},
    {1568, 672},
}};

}  // namespace

ImageSize kontext_reference_size(ImageSize image, int64_t multiple) {
  const auto whole = [&](int64_t side) { return static_cast<double>(side - side % multiple); };
  check(image.height >= multiple && image.width >= multiple, ErrorCode::kInvalidArgument,
        "image is {}x{}: sides of at least {} pixels are needed for a reference", image.width,
        image.height, multiple);
  const double aspect = whole(image.width) / whole(image.height);
  const std::array<int64_t, 2>* nearest = nullptr;
  double least = 0;
  for (const auto& size : kPreferred) {
    const double distance =
        std::abs(aspect - static_cast<double>(size[0]) / static_cast<double>(size[1]));
    if (nearest != nullptr && distance >= least) continue;
    nearest = &size;
    least = distance;
  }
  return {(*nearest)[1] / multiple * multiple, (*nearest)[0] / multiple * multiple};
}

ImageSize kontext_size(ImageSize asked, ImageSize area, int64_t multiple) {
  const double pixels = static_cast<double>(area.height) * static_cast<double>(area.width);
  const double aspect = static_cast<double>(asked.width) / static_cast<double>(asked.height);
  const auto side = [&](double square) {
    const auto rounded = static_cast<int64_t>(std::nearbyint(std::pow(square, 0.5)));
    return rounded / multiple * multiple;
  };
  return {side(pixels / aspect), side(pixels * aspect)};
}

std::vector<ImageStart> start_kontext(const StartContext& start) {
  const InputImage& image = start.row.image;
  const ImageSize size =
      kontext_reference_size({image.height, image.width}, start.config.size_multiple());
  const Tensor latents = start.encode(start.pixels(size.height, size.width), {}).front();
  const Tensor ids = make_image_ids(latent_size(start.config, size.height, size.width));
  for (int64_t token = 0; token < ids.size(0); ++token) ids[token].data<float>()[0] = 1.0f;
  const ImageTokens reference{latents, to_device(start.ctx(), ids), {}};
  std::vector<ImageStart> starts;
  for (int j = 0; j < start.row.num_images_per_prompt; ++j) {
    ImageStart own{start.noise(j, 0)};
    own.reference = reference;
    starts.push_back(std::move(own));
  }
  return starts;
}

}  // namespace flux

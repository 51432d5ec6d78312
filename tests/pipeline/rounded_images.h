#pragma once

#include "golden.h"
#include "pipeline/text_to_image.h"

namespace flux::testing {

/// Expects that images in bf16 are those of diffusers in bf16, or no farther from diffusers' in
/// f32 than they are (docs/numerics.md). The case has "images" and "images_f32".
inline void expect_as_close_as_diffusers(const GoldenCase& golden, const GenerateResult& result) {
  const ConstTensor theirs = golden.tensor("images");
  const ConstTensor exact = golden.tensor("images_f32");
  ASSERT_EQ(std::ssize(result.images), theirs.size(0)) << golden.name;
  for (int64_t i = 0; i < theirs.size(0); ++i) {
    const ConstTensor& ours = result.images[static_cast<size_t>(i)].pixels;
    const double to_theirs = psnr(ours, theirs[i]);
    const double our_error = psnr(ours, exact[i]);
    const double their_error = psnr(theirs[i], exact[i]);
    EXPECT_TRUE(to_theirs > 38 || our_error >= their_error)
        << golden.name << " image " << i << ": " << to_theirs << " dB to diffusers' bf16; to f32 "
        << our_error << " dB, diffusers " << their_error << " dB";
  }
}

}  // namespace flux::testing

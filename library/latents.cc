#include "library/latents.h"

#include <algorithm>

#include "library/boundary.h"
#include "pipeline/latents.h"
#include "support/error.h"
#include "tensor/format.h"
#include "weights/safetensors.h"

namespace flux {
namespace {

constexpr const char* kName = "latents";

ConstTensor read_values(const std::filesystem::path& file) {
  const auto opened = SafetensorsFile::open(file);
  const StoredTensor* found = opened->find(kName);
  check(found != nullptr, ErrorCode::kNotFound, "{}: tensor '{}' is missing", file, kName);
  const ConstTensor& stored = found->data;
  check(is_floating_point(stored.dtype()) && stored.rank() == 3 && stored.numel() > 0,
        ErrorCode::kInvalidArgument,
        "{}: tensor '{}' is {}; a floating point dtype and [images, image tokens, channels] are "
        "expected",
        file, kName, stored);
  const ConstTensor values = in_memory(*found).data;
  check(all_finite(values), ErrorCode::kInvalidArgument,
        "{}: tensor '{}' holds values that are not finite", file, kName);
  return values;
}

}  // namespace

std::vector<Latents> Latents::read(const std::filesystem::path& file) {
  return with_named_exceptions([&] {
    const ConstTensor all = read_values(file);
    std::vector<Latents> images;
    for (int64_t i = 0; i < all.size(0); ++i) {
      images.push_back(Latents(std::make_shared<const Data>(Data{all[i]})));
    }
    return images;
  });
}

void Latents::write(const std::filesystem::path& file, std::span<const Latents> images) {
  with_named_exceptions([&] {
    check(!images.empty() && images.front().data_, ErrorCode::kInvalidArgument,
          "{}: there are no latents to write", file);
    const ConstTensor& first = images.front().data_->values;
    const Tensor all = Tensor::allocate(
        {static_cast<int64_t>(images.size()), first.size(0), first.size(1)}, first.dtype());
    for (size_t i = 0; i < images.size(); ++i) {
      check(images[i].tokens() == first.size(0) && images[i].channels() == first.size(1),
            ErrorCode::kInvalidArgument,
            "{}: the latents of image {} are [{}, {}], those of image 0 are {}; one file takes "
            "images of one size",
            file, i, images[i].tokens(), images[i].channels(), first.shape());
      copy_convert(images[i].data_->values, all[static_cast<int64_t>(i)]);
    }
    write_safetensors(file, {{kName, all}});
  });
}

int64_t Latents::tokens() const { return data_ ? data_->values.size(0) : 0; }
int64_t Latents::channels() const { return data_ ? data_->values.size(1) : 0; }

}  // namespace flux

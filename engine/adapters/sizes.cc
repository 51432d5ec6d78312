#include "adapters/sizes.h"

#include <algorithm>

#include "support/error.h"
#include "tensor/format.h"

namespace flux {
namespace {

/// The number of blocks of the kind that a module is in; null for one that is in no block.
int64_t* blocks_of(AdapterSizes& sizes, const Module& module) {
  if (module.name.find('#') == module.name.npos) return nullptr;
  switch (module.model) {
    case AdapterModel::kClip:
      return &sizes.clip_layers;
    case AdapterModel::kT5:
      return &sizes.t5_layers;
    case AdapterModel::kTransformer:
      break;
  }
  return module.name.starts_with("single_") ? &sizes.single_blocks : &sizes.double_blocks;
}

}  // namespace

void SizeCollector::add(const Module& module, int64_t block, const Shape& shape,
                        const std::string& tensor) {
  add(module.rows, shape[0], tensor);
  if (shape.rank() > 1) add(module.columns, shape[1], tensor);
  int64_t* blocks = blocks_of(sizes_, module);
  if (blocks != nullptr) *blocks = std::max(*blocks, block + 1);
}

void SizeCollector::add(const Dimension& dimension, int64_t size, const std::string& tensor) {
  const auto [width, times] = dimension;
  int64_t& known = sizes_[width];
  std::string& teller = tensors_[static_cast<size_t>(width)];
  check(size % times == 0, ErrorCode::kInvalidArgument,
        "{}: tensor '{}' changes {} rows or columns, expected a multiple of {}: {} times the {}; "
        "the file is damaged, or of another model",
        file_, tensor, size, times, times, name_of(width));
  if (known == 0) {
    known = size / times;
    teller = tensor;
  }
  check(known == size / times, ErrorCode::kInvalidArgument,
        "{}: tensor '{}' is for a model with {} {}, and '{}' for one with {}; the file is "
        "damaged, or of another model",
        file_, tensor, name_of(width), size / times, teller, known);
}

}  // namespace flux

#include "tensor/tensor.h"

#include <cstring>

#include "support/error.h"
#include "support/host_memory.h"
#include "tensor/format.h"

namespace flux {

void Shape::fail_rank(int rank) {
  fail(ErrorCode::kInternal, "shape of rank {}: at most {} are supported", rank, kMaxRank);
}

ConstTensor::ConstTensor(const void* data, DType dtype, const Shape& shape, Device device,
                         std::shared_ptr<const void> owner)
    : data_(data), dtype_(dtype), device_(device), shape_(shape), strides_(shape) {
  owner_ = std::move(owner);
  int64_t stride = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides_[i] = stride;
    stride *= shape[i];
  }
}

Tensor Tensor::allocate(const Shape& shape, DType dtype) {
  const size_t bytes = static_cast<size_t>(shape.numel()) * size_of(dtype);
  const std::shared_ptr<std::byte> memory = allocate_host(bytes);
  check(memory != nullptr, ErrorCode::kUnavailable, "out of memory: {} bytes for a tensor {}",
        bytes, shape);
  return Tensor(memory.get(), dtype, shape, Device{}, memory);
}

void ConstTensor::fail_dimension(int dim) const {
  fail(ErrorCode::kInternal, "dimension {} of a tensor {}", dim, *this);
}

void ConstTensor::fail_type(size_t size) const {
  fail(ErrorCode::kInternal, "a tensor {} is read as a type of {} bytes that is not its own", *this,
       size);
}

ConstTensor ConstTensor::slice(int dim, int64_t begin, int64_t end) const {
  if (dim < 0) dim += rank();
  check(dim >= 0 && dim < rank() && begin >= 0 && begin <= end && end <= shape_[dim],
        ErrorCode::kInternal, "slice [{}, {}) of dimension {} of {}", begin, end, dim, *this);
  ConstTensor part = *this;
  part.shape_[dim] = end - begin;
  part.data_ = static_cast<const char*>(data_) +
               begin * strides_[dim] * static_cast<int64_t>(size_of(dtype_));
  return part;
}

ConstTensor ConstTensor::operator[](int64_t i) const {
  check(rank() > 0 && i >= 0 && i < shape_[0], ErrorCode::kInternal, "index {} of {}", i, *this);
  ConstTensor part = *this;
  part.data_ =
      static_cast<const char*>(data_) + i * strides_[0] * static_cast<int64_t>(size_of(dtype_));
  std::array<int64_t, Shape::kMaxRank> sizes{};
  std::array<int64_t, Shape::kMaxRank> strides{};
  for (int d = 1; d < rank(); ++d) {
    sizes[static_cast<size_t>(d - 1)] = shape_[d];
    strides[static_cast<size_t>(d - 1)] = strides_[d];
  }
  part.shape_ = Shape(sizes.data(), rank() - 1);
  part.strides_ = Shape(strides.data(), rank() - 1);
  return part;
}

ConstTensor ConstTensor::reshape(const Shape& shape) const {
  check(is_contiguous() && shape.numel() == numel(), ErrorCode::kInternal, "reshape of {} to {}",
        *this, shape);
  return ConstTensor(data_, dtype_, shape, device_, owner_);
}

ConstTensor ConstTensor::split_last(int64_t outer, int64_t inner) const {
  check(rank() > 0 && rank() < Shape::kMaxRank && size(-1) == outer * inner, ErrorCode::kInternal,
        "split of the last dimension of {} into {} x {}", *this, outer, inner);
  std::array<int64_t, Shape::kMaxRank> sizes{};
  std::array<int64_t, Shape::kMaxRank> strides{};
  for (int d = 0; d < rank(); ++d) {
    sizes[static_cast<size_t>(d)] = shape_[d];
    strides[static_cast<size_t>(d)] = strides_[d];
  }
  const auto last = static_cast<size_t>(rank() - 1);
  sizes[last] = outer;
  strides[last] = inner;
  sizes[last + 1] = inner;
  strides[last + 1] = 1;
  ConstTensor view = *this;
  view.shape_ = Shape(sizes.data(), rank() + 1);
  view.strides_ = Shape(strides.data(), rank() + 1);
  return view;
}

namespace {

template <typename From, typename To>
void convert_row(const void* from, void* to, int64_t count) {
  const From* source = static_cast<const From*>(from);
  To* target = static_cast<To*>(to);
  for (int64_t i = 0; i < count; ++i) {
    if constexpr (std::is_same_v<To, double>) {
      target[i] = static_cast<double>(static_cast<float>(source[i]));
    } else {
      target[i] = To(static_cast<float>(source[i]));
    }
  }
}

using RowConverter = void (*)(const void*, void*, int64_t);

template <typename From>
RowConverter converter_from(DType to) {
  switch (to) {
    case DType::kF32:
      return convert_row<From, float>;
    case DType::kBF16:
      return convert_row<From, BFloat16>;
    case DType::kF16:
      return convert_row<From, Float16>;
    case DType::kF64:
      return convert_row<From, double>;
    default:
      return nullptr;
  }
}

RowConverter row_converter(DType from, DType to) {
  switch (from) {
    case DType::kF32:
      return converter_from<float>(to);
    case DType::kBF16:
      return converter_from<BFloat16>(to);
    case DType::kF16:
      return converter_from<Float16>(to);
    case DType::kF64:
      return converter_from<double>(to);
    default:
      return nullptr;
  }
}

void copy_rows(const ConstTensor& from, const Tensor& to, RowConverter convert) {
  if (from.rank() > 1) {
    for (int64_t i = 0; i < from.size(0); ++i) copy_rows(from[i], to[i], convert);
  } else if (convert == nullptr) {
    std::memcpy(to.raw(), from.raw(), static_cast<size_t>(from.bytes()));
  } else {
    convert(from.raw(), to.raw(), from.numel());
  }
}

}  // namespace

void copy_convert(const ConstTensor& from, const Tensor& to) {
  check(from.shape() == to.shape(), ErrorCode::kInternal, "copy of {} to {}", from, to);
  RowConverter convert = nullptr;
  if (from.dtype() != to.dtype()) {
    convert = row_converter(from.dtype(), to.dtype());
    check(convert != nullptr, ErrorCode::kInvalidArgument, "cannot convert {} to {}", from.dtype(),
          to.dtype());
  }
  if (from.is_contiguous() && to.is_contiguous()) {
    copy_rows(from.reshape({from.numel()}), to.reshape({to.numel()}), convert);
  } else {
    copy_rows(from, to, convert);
  }
}

Tensor to_dtype(const ConstTensor& tensor, DType dtype) {
  Tensor result = Tensor::allocate(tensor.shape(), dtype);
  copy_convert(tensor, result);
  return result;
}

}  // namespace flux

#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "tensor/device.h"
#include "tensor/dtype.h"

namespace flux {

/// Sizes of a tensor's dimensions, outermost first; at most kMaxRank of them.
class Shape {
 public:
  static constexpr int kMaxRank = 5;

  Shape() = default;
  Shape(std::initializer_list<int64_t> sizes)
      : Shape(sizes.begin(), static_cast<int>(sizes.size())) {}
  Shape(const int64_t* sizes, int rank) : rank_(rank) {
    if (rank > kMaxRank) [[unlikely]]
      fail_rank(rank);
    std::copy_n(sizes, rank, sizes_.begin());
  }

  int rank() const { return rank_; }
  int64_t operator[](int dim) const { return sizes_[static_cast<size_t>(dim)]; }
  int64_t& operator[](int dim) { return sizes_[static_cast<size_t>(dim)]; }
  /// Product of all sizes; 1 for rank 0.
  int64_t numel() const {
    int64_t count = 1;
    for (int i = 0; i < rank_; ++i) count *= (*this)[i];
    return count;
  }
  friend bool operator==(const Shape& a, const Shape& b) {
    return a.rank_ == b.rank_ &&
           std::equal(a.sizes_.begin(), a.sizes_.begin() + a.rank_, b.sizes_.begin());
  }

 private:
  [[noreturn]] static void fail_rank(int rank);

  std::array<int64_t, kMaxRank> sizes_{};
  int rank_ = 0;
};

/// A typed, strided view of memory on one device that is only read: what ops take, and what files
/// and requests hold. Copying it copies the view, never the data; `owner` (which may be null) keeps
/// the memory alive. The last dimension is contiguous.
class ConstTensor {
 public:
  ConstTensor() = default;
  /// A contiguous view of `data`. The caller keeps the memory alive unless `owner` does.
  ConstTensor(const void* data, DType dtype, const Shape& shape, Device device = {},
              std::shared_ptr<const void> owner = nullptr);

  bool defined() const { return data_ != nullptr; }
  DType dtype() const { return dtype_; }
  const Device& device() const { return device_; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  /// Size of a dimension; negative counts from the last. Throws kInternal beyond the rank.
  int64_t size(int dim) const { return shape_[index_of(dim)]; }
  /// Elements between neighbours along `dim`; as size().
  int64_t stride(int dim) const { return strides_[index_of(dim)]; }
  int64_t numel() const { return shape_.numel(); }
  /// Bytes of the elements (not of the gaps between rows).
  int64_t bytes() const { return numel() * static_cast<int64_t>(size_of(dtype_)); }
  bool is_contiguous() const {
    int64_t stride = 1;
    for (int i = rank() - 1; i >= 0; --i) {
      if (shape_[i] != 1 && strides_[i] != stride) return false;
      stride *= shape_[i];
    }
    return true;
  }

  const void* raw() const { return data_; }
  /// Typed address of the first element. Throws kInternal when T is not the type of the dtype;
  /// types of one byte fit every dtype.
  template <typename T>
  const T* data() const {
    check_type<T>();
    return static_cast<const T*>(data_);
  }

  /// Elements [begin, end) along `dim`.
  ConstTensor slice(int dim, int64_t begin, int64_t end) const;
  /// Element `i` of the first dimension: the rank falls by one.
  ConstTensor operator[](int64_t i) const;
  /// The same elements in another shape; this tensor must be contiguous.
  ConstTensor reshape(const Shape& shape) const;
  /// The last dimension split into [outer, inner]; works on strided rows.
  ConstTensor split_last(int64_t outer, int64_t inner) const;

 protected:
  template <typename T>
  void check_type() const {
    if (!is_type_of<std::remove_cv_t<T>>(dtype_)) [[unlikely]]
      fail_type(sizeof(T));
  }

 private:
  int index_of(int dim) const {
    const int index = dim < 0 ? dim + rank() : dim;
    if (index < 0 || index >= rank()) [[unlikely]]
      fail_dimension(dim);
    return index;
  }
  [[noreturn, gnu::cold]] void fail_dimension(int dim) const;
  [[noreturn, gnu::cold]] void fail_type(size_t size) const;

  const void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  Device device_;
  Shape shape_;
  Shape strides_;
  std::shared_ptr<const void> owner_;
};

/// A ConstTensor of memory that may be written, through each of its copies.
class Tensor : public ConstTensor {
 public:
  Tensor() = default;
  /// As ConstTensor's.
  Tensor(void* data, DType dtype, const Shape& shape, Device device = {},
         std::shared_ptr<const void> owner = nullptr)
      : ConstTensor(data, dtype, shape, device, std::move(owner)) {}

  /// New, uninitialised host memory, aligned to 64 bytes. Throws kUnavailable when there is none.
  static Tensor allocate(const Shape& shape, DType dtype);

  // The base holds an address that came as one of memory to write.
  void* raw() const { return const_cast<void*>(ConstTensor::raw()); }
  template <typename T>
  T* data() const {
    check_type<T>();
    return static_cast<T*>(raw());
  }

  Tensor slice(int dim, int64_t begin, int64_t end) const {
    return Tensor(ConstTensor::slice(dim, begin, end));
  }
  Tensor operator[](int64_t i) const { return Tensor(ConstTensor::operator[](i)); }
  Tensor reshape(const Shape& shape) const { return Tensor(ConstTensor::reshape(shape)); }
  Tensor split_last(int64_t outer, int64_t inner) const {
    return Tensor(ConstTensor::split_last(outer, inner));
  }

 private:
  explicit Tensor(ConstTensor view) : ConstTensor(std::move(view)) {}
};

/// Copies elements between host tensors of the same shape, converting between f32, bf16, f16 and
/// f64 (to nearest even). Both may be strided.
void copy_convert(const ConstTensor& from, const Tensor& to);

/// A new contiguous host tensor with the elements of `tensor` in `dtype`.
Tensor to_dtype(const ConstTensor& tensor, DType dtype);

}  // namespace flux

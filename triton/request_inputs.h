#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/context.h"
#include "tensor/tensor.h"
#include "triton/c_api.h"

namespace flux::triton {

/// The inputs of one request. They may be in the memory of the host or of a GPU, in several pieces,
/// and at any address. The reading functions throw kInvalidArgument, naming the input, for one that
/// is missing or has another type or shape.
class RequestInputs {
 public:
  /// Looks at all inputs. `ctx` copies them where that is needed, as long as this object lives.
  /// Throws kInvalidArgument for inputs that disagree on the number of rows.
  void read(BackendRequest* request, Context& ctx);

  bool has(std::string_view name) const;
  /// Size of the first dimension of all inputs; 1 for a request without inputs.
  int64_t rows() const { return rows_; }
  /// An input of a floating point `dtype` and rank `sizes`.size() + 1; a size of -1 is free. The
  /// tensor is a view of the server's memory where that is whole, aligned and within reach of the
  /// context, else a copy in host memory. In host memory its values must be finite. Those on a GPU
  /// would have to be waited for; the ones of `bls` are checked by itself.
  ConstTensor tensor(std::string_view name, DType dtype, std::span<const int64_t> sizes) const;
  /// A UINT8 input in host memory; `sizes` as for tensor().
  ConstTensor host_bytes(std::string_view name, std::span<const int64_t> sizes) const;
  /// The values of a STRING [rows, 1], INT32/INT64 [rows, 1] or FP32 [rows, 1] input.
  std::vector<std::string> strings(std::string_view name) const;
  std::vector<int64_t> integers(std::string_view name) const;
  std::vector<double> numbers(std::string_view name) const;
  /// Bytes that tensor() had to copy so far.
  int64_t copied_bytes() const { return copied_bytes_; }

 private:
  struct InputInfo {
    Input* input = nullptr;
    DataType type = DataType::kInvalid;
    std::vector<int64_t> shape;
    uint64_t bytes = 0;
    uint32_t buffers = 0;
  };
  const InputInfo& info(std::string_view name) const;
  /// tensor() without a look at the values.
  ConstTensor whole_tensor(std::string_view name, DType dtype,
                           std::span<const int64_t> sizes) const;
  /// One of the buffers that an input comes in.
  ConstTensor piece(const InputInfo& input, uint32_t index) const;
  /// All bytes of an input in one piece of host memory, which `owner` keeps.
  std::span<const std::byte> bytes_of(const InputInfo& input, ConstTensor& owner) const;
  void expect_scalar_rows(std::string_view name, const InputInfo& input) const;

  Context* ctx_ = nullptr;
  std::map<std::string, InputInfo, std::less<>> inputs_;
  int64_t rows_ = 1;
  mutable int64_t copied_bytes_ = 0;  // counted by the reading functions
};

}  // namespace flux::triton

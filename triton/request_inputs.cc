#include "triton/request_inputs.h"

#include <cstring>

#include "pipeline/latents.h"
#include "runtime/transfer.h"
#include "support/error.h"
#include "triton/errors.h"
#include "triton/memory.h"
#include "triton/wire_type.h"

namespace flux::triton {
namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

}  // namespace

void RequestInputs::read(BackendRequest* request, Context& ctx) {
  ctx_ = &ctx;
  uint32_t count = 0;
  check_ok(api().TRITONBACKEND_RequestInputCount(request, &count));
  bool first = true;
  for (uint32_t i = 0; i < count; ++i) {
    InputInfo found;
    const char* name = nullptr;
    const int64_t* shape = nullptr;
    uint32_t rank = 0;
    check_ok(api().TRITONBACKEND_RequestInputByIndex(request, i, &found.input));
    check_ok(api().TRITONBACKEND_InputProperties(found.input, &name, &found.type, &shape, &rank,
                                                 &found.bytes, &found.buffers));
    found.shape.assign(shape, shape + rank);
    const int64_t rows = found.shape.empty() ? 0 : found.shape[0];
    check(rows > 0, ErrorCode::kInvalidArgument, "{} has shape {}: it holds no row", name,
          shape_text(found.shape));
    check(first || rows == rows_, ErrorCode::kInvalidArgument,
          "{} has {} rows: another input has {}; all need one batch size", name, rows, rows_);
    rows_ = rows;
    first = false;
    inputs_.emplace(name, std::move(found));
  }
}

bool RequestInputs::has(std::string_view name) const { return inputs_.contains(name); }

const RequestInputs::InputInfo& RequestInputs::info(std::string_view name) const {
  const auto found = inputs_.find(name);
  check(found != inputs_.end(), ErrorCode::kInvalidArgument, "{} is missing: it is required", name);
  return found->second;
}

ConstTensor RequestInputs::piece(const InputInfo& input, uint32_t index) const {
  const void* data = nullptr;
  uint64_t bytes = 0;
  MemoryLocation location;
  check_ok(api().TRITONBACKEND_InputBuffer(input.input, index, &data, &bytes, &location.type,
                                           &location.id));
  return ConstTensor(data, DType::kU8, {static_cast<int64_t>(bytes)}, device_of(location));
}

std::span<const std::byte> RequestInputs::bytes_of(const InputInfo& input,
                                                   ConstTensor& owner) const {
  if (input.buffers == 1) owner = piece(input, 0);
  if (!owner.defined() || !owner.device().is_cpu()) {
    const Tensor whole = Tensor::allocate({static_cast<int64_t>(input.bytes)}, DType::kU8);
    int64_t end = 0;
    for (uint32_t i = 0; i < input.buffers; ++i) {
      const ConstTensor part = piece(input, i);
      if (part.bytes() == 0) continue;
      copy_anywhere(*ctx_, part, whole.slice(0, end, end + part.bytes()));
      end += part.bytes();
    }
    owner = whole;
  }
  return {owner.data<std::byte>(), static_cast<size_t>(owner.bytes())};
}

ConstTensor RequestInputs::tensor(std::string_view name, DType dtype,
                                  std::span<const int64_t> sizes) const {
  const ConstTensor found = whole_tensor(name, dtype, sizes);
  check(!found.device().is_cpu() || all_finite(found), ErrorCode::kInvalidArgument,
        "input {} holds values that are not finite", name);
  return found;
}

ConstTensor RequestInputs::host_bytes(std::string_view name, std::span<const int64_t> sizes) const {
  return to_host(*ctx_, whole_tensor(name, DType::kU8, sizes));
}

ConstTensor RequestInputs::whole_tensor(std::string_view name, DType dtype,
                                        std::span<const int64_t> sizes) const {
  const InputInfo& input = info(name);
  check(input.type == wire_type(dtype), ErrorCode::kInvalidArgument, "{} is {}: must be {}", name,
        api().TRITONSERVER_DataTypeString(input.type),
        api().TRITONSERVER_DataTypeString(wire_type(dtype)));
  bool fits = input.shape.size() == sizes.size() + 1 &&
              input.shape.size() <= static_cast<size_t>(Shape::kMaxRank);
  for (size_t i = 0; fits && i < sizes.size(); ++i) {
    const int64_t found = input.shape[i + 1];
    fits = sizes[i] < 0 ? found > 0 : found == sizes[i];
  }
  check(fits, ErrorCode::kInvalidArgument, "{} has shape {}: must be [rows, {}]", name,
        shape_text(input.shape), fmt::join(sizes, ", "));
  const Shape shape(input.shape.data(), static_cast<int>(input.shape.size()));
  const auto expected = static_cast<uint64_t>(shape.numel()) * size_of(dtype);
  check(input.bytes == expected, ErrorCode::kInvalidArgument,
        "{} has {} bytes: its shape {} takes {}", name, input.bytes, shape_text(input.shape),
        expected);
  if (input.buffers == 1) {
    const ConstTensor bytes = piece(input, 0);
    const ConstTensor whole(bytes.raw(), dtype, shape, bytes.device());
    if (is_usable(*ctx_, whole)) return whole;
  }
  copied_bytes_ += static_cast<int64_t>(expected);
  ConstTensor owner;
  const std::span<const std::byte> bytes = bytes_of(input, owner);
  const Tensor own = Tensor::allocate(shape, dtype);
  std::memcpy(own.raw(), bytes.data(), bytes.size());
  return own;
}

void RequestInputs::expect_scalar_rows(std::string_view name, const InputInfo& input) const {
  check(input.shape.size() == 2 && input.shape[1] == 1, ErrorCode::kInvalidArgument,
        "{} has shape {}: must be [rows, 1]", name, shape_text(input.shape));
}

std::vector<std::string> RequestInputs::strings(std::string_view name) const {
  const InputInfo& input = info(name);
  check(input.type == DataType::kBytes, ErrorCode::kInvalidArgument, "{} is {}: must be BYTES",
        name, api().TRITONSERVER_DataTypeString(input.type));
  expect_scalar_rows(name, input);
  ConstTensor owner;
  std::span<const std::byte> rest = bytes_of(input, owner);
  std::vector<std::string> texts;
  for (int64_t row = 0; row < rows_; ++row) {
    uint32_t length = 0;  // each text follows its length
    check(rest.size() >= sizeof(length), ErrorCode::kInvalidArgument,
          "{} ends within the length of row {}", name, row);
    std::memcpy(&length, rest.data(), sizeof(length));
    rest = rest.subspan(sizeof(length));
    check(length <= rest.size(), ErrorCode::kInvalidArgument,
          "{} row {} says it has {} bytes: {} follow", name, row, length, rest.size());
    texts.emplace_back(reinterpret_cast<const char*>(rest.data()), length);
    rest = rest.subspan(length);
  }
  check(rest.empty(), ErrorCode::kInvalidArgument, "{} has {} bytes too many", name, rest.size());
  return texts;
}

std::vector<int64_t> RequestInputs::integers(std::string_view name) const {
  const InputInfo& input = info(name);
  const bool wide = input.type == DataType::kInt64;
  check(wide || input.type == DataType::kInt32, ErrorCode::kInvalidArgument,
        "{} is {}: must be INT32 or INT64", name, api().TRITONSERVER_DataTypeString(input.type));
  expect_scalar_rows(name, input);
  ConstTensor owner;
  const std::span<const std::byte> bytes = bytes_of(input, owner);
  const size_t size = wide ? sizeof(int64_t) : sizeof(int32_t);
  check(bytes.size() == static_cast<size_t>(rows_) * size, ErrorCode::kInvalidArgument,
        "{} has {} bytes: {} rows take {}", name, bytes.size(), rows_,
        static_cast<size_t>(rows_) * size);
  std::vector<int64_t> values;
  for (size_t row = 0; row < static_cast<size_t>(rows_); ++row) {
    int64_t value64 = 0;
    int32_t value32 = 0;
    std::memcpy(wide ? static_cast<void*>(&value64) : &value32, bytes.data() + row * size, size);
    values.push_back(wide ? value64 : value32);
  }
  return values;
}

std::vector<double> RequestInputs::numbers(std::string_view name) const {
  const InputInfo& input = info(name);
  check(input.type == DataType::kFp32, ErrorCode::kInvalidArgument, "{} is {}: must be FP32", name,
        api().TRITONSERVER_DataTypeString(input.type));
  expect_scalar_rows(name, input);
  ConstTensor owner;
  const std::span<const std::byte> bytes = bytes_of(input, owner);
  check(bytes.size() == static_cast<size_t>(rows_) * sizeof(float), ErrorCode::kInvalidArgument,
        "{} has {} bytes: {} rows take {}", name, bytes.size(), rows_,
        static_cast<size_t>(rows_) * sizeof(float));
  std::vector<double> values;
  for (size_t row = 0; row < static_cast<size_t>(rows_); ++row) {
    float value = 0;
    std::memcpy(&value, bytes.data() + row * sizeof(float), sizeof(float));
    values.push_back(value);
  }
  return values;
}

}  // namespace flux::triton

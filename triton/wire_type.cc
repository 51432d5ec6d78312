#include "triton/wire_type.h"

#include "support/error.h"
#include "tensor/format.h"

namespace flux::triton {

DataType wire_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return DataType::kFp32;
    case DType::kBF16:
      return DataType::kBf16;
    case DType::kF16:
      return DataType::kFp16;
    case DType::kI64:
      return DataType::kInt64;
    case DType::kI32:
      return DataType::kInt32;
    case DType::kU8:
      return DataType::kUint8;
    default:
      fail(ErrorCode::kInternal, "dtype {} is never sent", dtype);
  }
}

DataType wire_type(const RequestField& field) {
  struct Visitor {
    DataType operator()(const TextField&) const { return DataType::kBytes; }
    DataType operator()(const SideField&) const { return DataType::kInt32; }
    DataType operator()(const NumberField&) const { return DataType::kFp32; }
    DataType operator()(const IntegerField& field) const {
      const bool is_int = std::holds_alternative<int ImageParams::*>(field.checked);
      return is_int ? DataType::kInt32 : DataType::kInt64;
    }
  };
  return std::visit(Visitor{}, field.kind);
}

std::optional<DType> floating_dtype(DataType type) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    if (wire_type(dtype) == type) return dtype;
  }
  return std::nullopt;
}

}  // namespace flux::triton

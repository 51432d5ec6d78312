#pragma once

#include <optional>

#include "pipeline/request_fields.h"
#include "tensor/dtype.h"
#include "triton/c_api.h"

namespace flux::triton {

/// The server's type of a dtype. Throws kInternal for a dtype that is never sent.
DataType wire_type(DType dtype);

/// The server's type of a request's field.
DataType wire_type(const RequestField& field);

/// The floating point dtype of a server's type; nothing for any other type.
std::optional<DType> floating_dtype(DataType type);

}  // namespace flux::triton

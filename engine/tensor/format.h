#pragma once

#include <fmt/format.h>

#include "tensor/tensor.h"

/// How tensors and what they are made of read in messages. Apart from tensor.h, which compilers of
/// GPU code read: they need no fmt.
template <>
struct fmt::formatter<flux::DType> : fmt::formatter<std::string_view> {
  template <typename FormatContext>
  auto format(flux::DType dtype, FormatContext& ctx) const {
    return fmt::formatter<std::string_view>::format(flux::name_of(dtype), ctx);
  }
};

/// "cpu" or "cuda:0".
template <>
struct fmt::formatter<flux::Device> : fmt::formatter<std::string_view> {
  template <typename FormatContext>
  auto format(const flux::Device& device, FormatContext& ctx) const {
    return fmt::formatter<std::string_view>::format(flux::to_string(device), ctx);
  }
};

/// "[2, 77, 768]".
template <>
struct fmt::formatter<flux::Shape> : fmt::formatter<std::string_view> {
  template <typename FormatContext>
  auto format(const flux::Shape& shape, FormatContext& ctx) const {
    std::string text = "[";
    for (int i = 0; i < shape.rank(); ++i) text += fmt::format("{}{}", i ? ", " : "", shape[i]);
    return fmt::formatter<std::string_view>::format(text + "]", ctx);
  }
};

/// "bf16[4, 16]".
template <>
struct fmt::formatter<flux::ConstTensor> : fmt::formatter<std::string_view> {
  template <typename FormatContext>
  auto format(const flux::ConstTensor& tensor, FormatContext& ctx) const {
    const std::string text = fmt::format("{}{}", tensor.dtype(), tensor.shape());
    return fmt::formatter<std::string_view>::format(text, ctx);
  }
};

template <>
struct fmt::formatter<flux::Tensor> : fmt::formatter<flux::ConstTensor> {};

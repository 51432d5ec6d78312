#pragma once

#include "ops/cuda/state.h"

/// Matrix products through cuBLASLt, and nothing else of it.
namespace flux::cuda {

enum class ProductEpilogue { kNone, kBias, kBiasGeluTanh };

/// out[b] = x[b] w[b]^T (+ added), row by row: x [rows, depth], w [columns, depth] (or
/// [depth, columns] when w_by_depth), out and added [rows, columns]. Strides are between rows, in
/// elements. Sums are f32 (never TF32) and never split, so that their order is the algorithm's
/// alone.
struct Product {
  DType dtype = DType::kF32;  // of x and w
  DType out_dtype = DType::kF32;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t depth = 0;
  const void* x = nullptr;
  int64_t x_stride = 0;
  const void* w = nullptr;
  int64_t w_stride = 0;
  bool w_by_depth = false;
  void* out = nullptr;
  int64_t out_stride = 0;
  const void* added = nullptr;  // [rows, columns], of out_dtype; may be out
  int64_t added_stride = 0;
  ProductEpilogue epilogue = ProductEpilogue::kNone;
  const void* bias = nullptr;  // [columns], of out_dtype
  int64_t batch = 1;
  int64_t x_batch_stride = 0;
  int64_t w_batch_stride = 0;
  int64_t out_batch_stride = 0;
};
void multiply(State& state, const Product& product);

}  // namespace flux::cuda

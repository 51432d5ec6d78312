#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "ops/cpu/kernels/kernels.h"
#include "ops/cpu/rows.h"
#include "ops/kernels.h"

/// Linear layers on the host.
namespace flux::cpu {

/// The up half of a change of low rank: columns [begin, end), multiples of kTermColumns, zero where
/// the change has none.
class PackedUp : public PackedWeights {
 public:
  int64_t begin = 0;
  int64_t end = 0;
  Tensor memory;  // [rank, end - begin], f32
  Tensor gains;   // [end - begin], f32, may be undefined

  int64_t bytes() const override { return memory.bytes() + (gains.defined() ? gains.bytes() : 0); }
};

/// A WeightTerm of a call: its x is multiplied with the down half already.
struct TermSum {
  Tensor x;            // [rows, rank], T
  const PackedUp* up;  // null: x is added as it is, its columns being those from `begin` on
  int64_t begin;
  float scale;
};
/// Multiplies x with all of a term but its up half. The results are in the workspace.
TermSum multiply_down(Context& ctx, const ConstTensor& x, const WeightTerm& term);

class PackedLinear : public PackedWeights {
 public:
  int64_t depth = 0;
  int64_t columns = 0;
  Tensor memory;
  Tensor bias;  // [columns], f32, may be undefined

  int64_t bytes() const override { return memory.bytes() + (bias.defined() ? bias.bytes() : 0); }
  virtual void run(Context& ctx, const ConstTensor& x, const Epilogue& epilogue,
                   std::span<const TermSum> terms, const Tensor& out) const = 0;
};

/// The terms as the kernels take them.
template <typename T>
std::vector<TermProduct<T>> products_of(std::span<const TermSum> terms) {
  std::vector<TermProduct<T>> products;
  for (const TermSum& term : terms) {
    TermProduct<T>& product = products.emplace_back();
    product.x = row<T>(term.x, 0);
    product.x_stride = term.x.stride(0);
    product.rank = term.x.size(1);
    product.begin = term.begin;
    product.end = term.begin + term.x.size(1);
    product.scale = term.scale;
    if (term.up == nullptr) continue;
    product.up = term.up->memory.template data<float>();
    if (term.up->gains.defined()) product.gains = term.up->gains.template data<float>();
    product.begin = term.up->begin;
    product.end = term.up->end;
  }
  return products;
}

/// The epilogue of a tile of sums that begins at a row and a column of the result. The caller sets
/// the sums and their extent.
template <typename T>
TileEpilogue<T> tile_epilogue(const PackedLinear& packed, const Epilogue& epilogue,
                              const std::vector<TermProduct<T>>& terms, const Tensor& out,
                              int64_t first_row, int64_t column) {
  TileEpilogue<T> tile{};
  tile.terms = terms.data();
  tile.term_count = std::ssize(terms);
  tile.row = first_row;
  tile.column = column;
  tile.bias = packed.bias.defined() ? packed.bias.data<float>() + column : nullptr;
  tile.activation = epilogue.activation;
  tile.gate = epilogue.gate.defined() ? epilogue.gate.data<float>() + column : nullptr;
  if (epilogue.residual.defined()) {
    tile.residual = row<T>(epilogue.residual, first_row) + column;
    tile.residual_stride = epilogue.residual.stride(0);
  }
  tile.out = row<T>(out, first_row) + column;
  tile.out_stride = out.stride(0);
  return tile;
}

/// Gives memory for packed weights: u8[bytes], aligned to 64 bytes.
using WeightMemory = std::function<Tensor(int64_t bytes)>;

/// Packs a layer for our own kernels (kernels/product_kernels.cc), which compute in f32 with fewer
/// multiplications than plain products. `dtype` is that of weights and activations.
std::shared_ptr<PackedLinear> pack_panel_linear(Context& ctx, std::span<const StoredTensor> weights,
                                                DType dtype, const WeightMemory& memory);
/// Packs a layer for oneDNN's bf16 products, on a processor that has them.
std::shared_ptr<PackedLinear> pack_onednn_linear(Context& ctx,
                                                 std::span<const StoredTensor> weights,
                                                 const WeightMemory& memory);
/// Packs a layer by the one of them that this processor is to use.
std::shared_ptr<PackedLinear> pack_decoded_linear(Context& ctx,
                                                  std::span<const StoredTensor> weights,
                                                  DType dtype, const WeightMemory& memory);
/// Keeps a layer of encoded weights as it is stored. Its products are those below where they exist
/// and x is bf16; otherwise the layer is decoded and packed for each product.
std::shared_ptr<PackedLinear> pack_encoded_linear(Context& ctx,
                                                  std::span<const StoredTensor> weights,
                                                  DType dtype);

/// The kernels by which this processor multiplies the stacked weights as int8, which rounds x; null
/// where it does not.
const Int8Kernels* int8_kernels_for(std::span<const StoredTensor> weights);
/// The product of the stacked weights and x, bf16, as int8; columns and bias are those of `packed`.
void run_int8_linear(Context& ctx, const Int8Kernels& kernels,
                     std::span<const StoredTensor> weights, const PackedLinear& packed,
                     const ConstTensor& x, const Epilogue& epilogue, std::span<const TermSum> terms,
                     const Tensor& out);

/// Returns rows [begin, end) of the stacked weights as contiguous `dtype`: in place if possible,
/// else copied or read to `buffer`, which it makes where there is none, for others of that size.
const void* gather_rows(std::span<const StoredTensor> weights, int64_t begin, int64_t end,
                        DType dtype, Tensor& buffer);

}  // namespace flux::cpu

#pragma once

#include <functional>
#include <memory>
#include <span>

#include "ops/cpu/kernels/kernels.h"
#include "ops/cpu/rows.h"
#include "ops/kernels.h"

/// Linear layers on the host.
namespace flux::cpu {

class PackedLinear : public PackedWeights {
 public:
  int64_t depth = 0;
  int64_t columns = 0;
  Tensor memory;
  Tensor bias;  // [columns], f32, may be undefined

  int64_t bytes() const override { return memory.bytes() + (bias.defined() ? bias.bytes() : 0); }
  virtual void run(Context& ctx, const ConstTensor& x, const Epilogue& epilogue,
                   const Tensor& out) const = 0;
};

/// The epilogue of a tile of sums that begins at a row and a column of the result. The caller sets
/// the sums and their extent.
template <typename T>
TileEpilogue<T> tile_epilogue(const PackedLinear& packed, const Epilogue& epilogue,
                              const Tensor& out, int64_t first_row, int64_t column) {
  TileEpilogue<T> tile{};
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
                     const ConstTensor& x, const Epilogue& epilogue, const Tensor& out);

/// Returns rows [begin, end) of the stacked weights as contiguous `dtype`: in place if possible,
/// else copied to `buffer`.
const void* gather_rows(std::span<const StoredTensor> weights, int64_t begin, int64_t end,
                        DType dtype, Tensor& buffer);

}  // namespace flux::cpu

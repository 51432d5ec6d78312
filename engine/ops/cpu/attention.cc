#include <algorithm>

#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/isa.h"
#include "ops/cpu/rows.h"
#include "support/integer.h"

namespace flux::cpu {
namespace {

/// Address of a token's vector of one head.
template <typename T, typename AnyTensor>
auto* at(const AnyTensor& tensor, int64_t token, int64_t head) {
  return tensor.template data<T>() + token * tensor.stride(0) + head * tensor.stride(1);
}

/// Packs the keys and values of all heads, then distributes tiles of (head, query rows) over the
/// threads. A tile sees all keys in their order: nothing depends on which thread runs it.
template <typename T>
void attend(Context& ctx, const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
            const AttentionOptions& options, const Tensor& out) {
  const AttentionKernels<T>& kernel = kernels().attention<T>();
  const int64_t q_tokens = q.size(0);
  const int64_t k_tokens = k.size(0);
  const int64_t heads = q.size(1);
  const int64_t head_dim = q.size(2);
  const int64_t blocks = ceil_div(k_tokens, kernel.block_keys);
  const int64_t tiles = ceil_div(q_tokens, kernel.tile_rows);
  const int64_t block_bytes = kernel.block_bytes(head_dim);

  const Workspace::Scope scope(ctx.workspace());
  const Tensor packed = ctx.workspace().allocate({heads, blocks, block_bytes}, DType::kU8);
  const int64_t scratch_bytes = (kernel.scratch_bytes(head_dim) + 63) / 64 * 64;
  const Tensor scratch = ctx.workspace().allocate({ctx.threads(), scratch_bytes}, DType::kU8);

  parallel_for(ctx.threads(), heads * blocks, [&](int64_t task) {
    const int64_t head = task / blocks;
    const int64_t key = task % blocks * kernel.block_keys;
    kernel.pack_block(at<T>(k, key, head), k.stride(0), at<T>(v, key, head), v.stride(0),
                      std::min(kernel.block_keys, k_tokens - key), head_dim,
                      packed.data<std::byte>() + task * block_bytes);
  });
  parallel_for(ctx.threads(), heads * tiles, [&](int64_t task, int thread) {
    const int64_t head = task / tiles;
    const int64_t first = task % tiles * kernel.tile_rows;
    AttentionTile<T> tile = {};
    tile.q = at<T>(q, first, head);
    tile.q_stride = q.stride(0);
    tile.rows = std::min(kernel.tile_rows, q_tokens - first);
    tile.first_row = first;
    tile.keys_and_values = packed.data<std::byte>() + head * blocks * block_bytes;
    tile.k_tokens = k_tokens;
    tile.head_dim = head_dim;
    tile.scale = options.natural_scale();
    tile.causal = options.causal;
    if (options.relative_bias.defined()) {
      tile.bias = row<float>(options.relative_bias, head) + (q_tokens - 1 - first);
    }
    tile.out = at<T>(out, first, head);
    tile.out_stride = out.stride(0);
    tile.scratch = scratch.data<std::byte>() + thread * scratch_bytes;
    kernel.run(tile);
  });
}

}  // namespace

void CpuBackend::attention(Context& ctx, std::span<const AttentionPart> parts,
                           const AttentionOptions& options) {
  for (const AttentionPart& part : parts) {
    if (part.q.numel() == 0) continue;
    dispatch(part.q.dtype(),
             [&]<typename T>() { attend<T>(ctx, part.q, part.k, part.v, options, part.out); });
  }
}

}  // namespace flux::cpu

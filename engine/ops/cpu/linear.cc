#include <algorithm>
#include <cstring>

#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/isa.h"
#include "ops/cpu/onednn.h"
#include "ops/cpu/packed_linear.h"
#include "ops/cpu/rows.h"
#include "ops/cpu/weight_memory.h"
#include "support/integer.h"

namespace flux::cpu {

namespace {

/// Decodes rows [begin, end) of an encoded weight into `out`, f32 or bf16.
void decode_rows_of(const StoredTensor& weight, int64_t begin, int64_t end, const Tensor& out) {
  const DecodeKernels& kernels = cpu::kernels().decode;
  const int64_t depth = weight.shape[1];
  for (int64_t i = begin; i < end; ++i) {
    const auto* source = row<uint8_t>(weight.data, i);
    const float scale = weight.scale_of(i);
    if (out.dtype() == DType::kF32) {
      kernels.f32(weight.encoding, source, depth, scale, row<float>(out, i - begin));
    } else {
      kernels.bf16(weight.encoding, source, depth, scale, row<BFloat16>(out, i - begin));
    }
  }
}

}  // namespace

const void* gather_rows(std::span<const StoredTensor> weights, int64_t begin, int64_t end,
                        DType dtype, Tensor& buffer) {
  const int64_t depth = weights[0].shape[1];
  int64_t first = 0;  // of the current weight in the stack
  for (const StoredTensor& weight : weights) {
    const int64_t last = first + weight.shape[0];
    const int64_t from = std::max(begin, first);
    const int64_t to = std::min(end, last);
    if (from < to) {
      if (from == begin && to == end && !weight.file && weight.is_plain() &&
          weight.data.dtype() == dtype && weight.data.is_contiguous()) {
        return weight.data.slice(0, from - first, to - first).raw();
      }
      if (!buffer.defined() || buffer.size(0) < end - begin) {
        buffer = Tensor::allocate({end - begin, depth}, dtype);
      }
      const Tensor part = buffer.slice(0, from - begin, to - begin);
      if (weight.is_plain()) {
        read_convert(weight.data.slice(0, from - first, to - first), weight.file.get(), part);
      } else {
        decode_rows_of(weight, from - first, to - first, part);
      }
    }
    first = last;
  }
  return buffer.raw();
}

std::shared_ptr<PackedLinear> pack_decoded_linear(Context& ctx,
                                                  std::span<const StoredTensor> weights,
                                                  DType dtype, const WeightMemory& memory) {
  const bool native = dtype == DType::kBF16 && bf16_path() == Bf16Path::kNative;
  return native ? pack_onednn_linear(ctx, weights, memory)
                : pack_panel_linear(ctx, weights, dtype, memory);
}

std::shared_ptr<const PackedWeights> CpuBackend::pack_linear(Context& ctx,
                                                             std::span<const StoredTensor> weights,
                                                             std::span<const ConstTensor> biases,
                                                             DType dtype,
                                                             Quantization quantization) {
  if (quantization == Quantization::kFp8) {
    const std::vector<StoredTensor> encoded = encode_e4m3(weights, dtype, ctx.threads());
    return pack_linear(ctx, encoded, biases, dtype, Quantization::kNone);
  }
  const bool plain = std::all_of(weights.begin(), weights.end(),
                                 [](const StoredTensor& weight) { return weight.is_plain(); });
  const auto packed = plain ? pack_decoded_linear(ctx, weights, dtype, allocate_weights)
                            : pack_encoded_linear(ctx, weights, dtype);
  packed->bias = stack_biases(weights, biases);
  return packed;
}

void CpuBackend::linear(Context& ctx, std::span<const LinearPart> parts) {
  for (const LinearPart& part : parts) {
    if (part.x.size(0) == 0) continue;
    const Workspace::Scope scope(ctx.workspace());
    const auto& packed = static_cast<const PackedLinear&>(*part.weights->packed);
    std::vector<TermSum> terms;
    for (const WeightTerm& term : part.terms) terms.push_back(multiply_down(ctx, part.x, term));
    packed.run(ctx, part.x, part.epilogue, terms, part.out);
    if (part.epilogue.norm) norm_heads(ctx, *part.epilogue.norm, part.out);
  }
}

}  // namespace flux::cpu

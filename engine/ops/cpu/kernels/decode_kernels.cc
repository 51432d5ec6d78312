#include "ops/cpu/kernels/decode_kernels.h"

#include "ops/cpu/simd.h"
#include "tensor/block_decoders.h"

namespace flux::cpu::FLUX_ISA {
namespace {

constexpr int64_t kBlock =
    256;  // values decoded before they are rounded: those of the largest block

/// Bytes of e4m3, which have no blocks.
template <typename T>
void decode_bytes(const uint8_t* source, int64_t n, float scale, T* out) {
  alignas(64) float values[kBlock];
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t count = begin + kBlock < n ? kBlock : n - begin;
    for (int64_t i = 0; i < count; ++i) values[i] = kE4M3[source[begin + i]] * scale;
    for_each_vec(count, [&](int64_t i, auto lanes) {
      store(out + begin + i, load(values + i, lanes), lanes);
    });
  }
}

template <typename T>
void decode_row(Encoding encoding, const uint8_t* source, int64_t n, float scale, T* out) {
  if (encoding == Encoding::kF8E4M3) return decode_bytes(source, n, scale, out);
  const EncodingInfo& info = info_of(encoding);
  const auto decode = block_decoder(encoding);
  alignas(64) float values[kBlock];
  for (int64_t begin = 0; begin < n; begin += info.block_values, source += info.block_bytes) {
    decode(source, values);
    for_each_vec(info.block_values, [&](int64_t i, auto lanes) {
      store(out + begin + i, load(values + i, lanes), lanes);
    });
  }
}

}  // namespace

DecodeKernels decode_kernels() { return {decode_row<float>, decode_row<BFloat16>}; }

}  // namespace flux::cpu::FLUX_ISA

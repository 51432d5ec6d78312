// Fuzzes the safetensors reader: what it lets pass must be readable to the last byte.
// Run by `make fuzz`; the corpus is tests/fuzz/corpus/safetensors.

#include <cstdint>
#include <cstdlib>

#include "support/error.h"
#include "weights/safetensors.h"

namespace {

/// Touches every byte of a tensor, so that the sanitizer sees where it really lies.
unsigned sum_bytes(const flux::ConstTensor& tensor) {
  unsigned sum = 0;
  const auto* bytes = tensor.data<unsigned char>();
  for (int64_t i = 0; i < tensor.bytes(); ++i) sum += bytes[i];
  return sum;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto file = flux::SafetensorsFile::parse(data, size, "input");
    int64_t total = 0;
    volatile unsigned sum = 0;
    for (const auto& [name, tensor] : file->tensors()) {
      total += tensor.bytes();
      sum = sum + sum_bytes(tensor.data);
    }
    // Tensors do not overlap, so they cannot hold more than the file.
    if (total > static_cast<int64_t>(size)) std::abort();
  } catch (const flux::Error& error) {
    if (error.code() != flux::ErrorCode::kInvalidArgument) std::abort();
  }
  return 0;
}

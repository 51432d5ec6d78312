// Fuzzes the GGUF reader: what it lets pass must decode and read to the last byte, and the
// tokenizer that it may carry must encode.
// Run by `make fuzz`; the corpus is tests/fuzz/corpus/gguf.

#include <cstdint>
#include <cstdlib>
#include <variant>

#include "fuzz/tokenizer_fuzz.h"
#include "pipeline/gguf_tokenizer.h"
#include "tokenizer/t5_sentencepiece.h"
#include "weights/gguf.h"

namespace {

volatile unsigned sink = 0;

/// Touches every byte, so that the sanitizer sees where it really lies.
void touch(const void* data, size_t size) {
  unsigned sum = 0;
  for (size_t i = 0; i < size; ++i) sum += static_cast<const uint8_t*>(data)[i];
  sink = sink + sum;
}

void touch_value(const flux::GgufFile::Value& value) {
  if (const auto* text = std::get_if<std::string_view>(&value)) touch(text->data(), text->size());
  if (const auto* texts = std::get_if<std::vector<std::string_view>>(&value)) {
    for (const std::string_view text : *texts) touch(text.data(), text.size());
  }
  if (const auto* list = std::get_if<flux::GgufFile::Bytes>(&value)) {
    touch(list->data.data(), list->data.size());
  }
}

/// Returns the bytes of the tensor in the file.
int64_t decode_tensor(const flux::StoredTensor& tensor) {
  touch(tensor.data.raw(), static_cast<size_t>(tensor.bytes()));
  flux::fuzz::allow_errors([&] {  // integers are no weights
    const flux::Tensor values = flux::decode(tensor, flux::DType::kF32);
    if (values.shape() != tensor.shape) std::abort();
    touch(values.raw(), static_cast<size_t>(values.bytes()));
  });
  return tensor.bytes();
}

void use_tokenizer(const flux::GgufFile& file) {
  if (!flux::has_t5_tokenizer(file)) return;
  flux::fuzz::allow_errors([&] {
    const auto tokenizer = flux::T5Tokenizer::from_model(flux::sentencepiece_of(file), "input");
    flux::fuzz::expect_row(16, tokenizer.max_id(),
                           [&] { return tokenizer.encode("a aa \u00e9 </s> b", 16); });
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto file = flux::GgufFile::parse(data, size, "input");
    int64_t total = 0;
    for (const auto& [name, tensor] : file->tensors()) total += decode_tensor(tensor);
    // Tensors do not overlap, so they cannot hold more than the file.
    if (total > static_cast<int64_t>(size)) std::abort();
    for (const auto& [key, value] : file->metadata()) touch_value(value);
    use_tokenizer(*file);
  } catch (const flux::Error& error) {
    if (error.code() != flux::ErrorCode::kInvalidArgument) std::abort();
  }
  return 0;
}

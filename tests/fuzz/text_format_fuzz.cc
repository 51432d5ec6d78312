// Fuzzes the reader of config.pbtxt files.
// Run by `make fuzz`; the corpus is tests/fuzz/corpus/text_format.

#include <cstdint>
#include <cstdlib>

#include "convert/text_format.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto error = flux::find_text_format_error(text);
  if (error && !error->starts_with("line ")) std::abort();
  return 0;
}

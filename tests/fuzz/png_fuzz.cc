// Fuzzes the reader of PNG files. Checksums are put right: else hardly an input passes them.
// Run by `make fuzz`; the corpus is tests/fuzz/corpus/png, and the golden files.

#include "fuzz/image_fuzz.h"
#include "image/png_checksums.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string file(reinterpret_cast<const char*>(data), size);
  flux::fuzz::decode_all(flux::testing::with_png_checksums(std::move(file)));
  return 0;
}

// Fuzzes the reader of JPEG files, with their EXIF and XMP.
// Run by `make fuzz`; the corpus is tests/fuzz/corpus/jpeg, and the golden files.

#include "fuzz/image_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  flux::fuzz::decode_all({reinterpret_cast<const char*>(data), size});
  return 0;
}

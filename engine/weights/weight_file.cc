#include "weights/weight_file.h"

#include <algorithm>

#include "support/file.h"
#include "support/foreign_content.h"
#include "weights/gguf.h"
#include "weights/safetensors.h"

namespace flux {

std::unique_ptr<const WeightFile> WeightFile::open(const std::filesystem::path& file) {
  constexpr size_t kLooked = 512;
  const auto bytes = FileBytes::open(file);
  const size_t looked = std::min(bytes->size(), kLooked);
  bytes->read_front(looked);
  const std::string_view content(reinterpret_cast<const char*>(bytes->begin()), looked);
  // What bears the name and is something known instead, the other reader names.
  const bool named_gguf = ending_of(file) == ".gguf" && foreign_content(content).empty();
  if (content.starts_with("GGUF") || named_gguf) return GgufFile::open(file, bytes);
  return SafetensorsFile::open(file, bytes);
}

}  // namespace flux

#include "weights/weight_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include "support/foreign_content.h"
#include "support/integer.h"
#include "weights/gguf.h"
#include "weights/safetensors.h"

namespace flux {

std::unique_ptr<const WeightFile> WeightFile::open(const std::filesystem::path& file) {
  const MappedFile mapped = map_file(file);
  const std::string_view content(static_cast<const char*>(mapped.data.get()), mapped.size);
  // What bears the name and is something known instead, the other reader names.
  const bool named_gguf = file.extension() == ".gguf" && foreign_content(content).empty();
  if (content.starts_with("GGUF") || named_gguf) return GgufFile::open(file, mapped);
  return SafetensorsFile::open(file, mapped);
}

void WeightFile::drop_pages(const ConstTensor& data) const {
  if (!maps(data)) return;
  static const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(data.raw());
  const auto first = round_up(begin, page);
  const auto last = (begin + static_cast<uintptr_t>(data.bytes())) / page * page;
  // Only whole pages: the rest belongs to neighbours. Private and never written, so that the pages
  // come back from the file when they are read again; a failure only costs memory.
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

}  // namespace flux

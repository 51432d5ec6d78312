#pragma once

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "support/error.h"
#include "tokenizer/token_ids.h"

namespace flux::fuzz {

/// A temporary directory of files, removed at the end.
class Directory {
 public:
  Directory() {
    std::string name = (std::filesystem::temp_directory_path() / "flux_fuzz_XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  ~Directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;

  const std::filesystem::path& path() const { return path_; }
  void write(const char* name, std::string_view bytes) const {
    std::ofstream(path_ / name, std::ios::binary).write(bytes.data(), std::ssize(bytes));
  }
  void clear() const {
    for (const auto& entry : std::filesystem::directory_iterator(path_)) {
      std::filesystem::remove(entry.path());
    }
  }

 private:
  std::filesystem::path path_;
};

/// Runs `work`; errors that blame the input are fine, anything else ends the process.
template <typename Work>
void allow_errors(const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kInternal) std::abort();
  }
}

/// Runs `encode`; a row must have `length` ids from 0 to `max_id`.
template <typename Encode>
void expect_row(int length, int32_t max_id, const Encode& encode) {
  allow_errors([&] {
    const TokenIds row = encode();
    if (row.ids.size() != static_cast<size_t>(length)) std::abort();
    for (const int32_t id : row.ids) {
      if (id < 0 || id > max_id) std::abort();
    }
  });
}

}  // namespace flux::fuzz

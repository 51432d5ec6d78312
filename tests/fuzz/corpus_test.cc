// Runs a fuzz target on every input that is kept for it, without a fuzzer: what was found once is
// tested ever after. FLUX_CORPUS names the directories, divided by commas.

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

std::vector<uint8_t> read_bytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

TEST(FuzzCorpus, EveryInputIsHandled) {
  size_t inputs = 0;
  std::istringstream directories(FLUX_CORPUS);
  for (std::string directory; std::getline(directories, directory, ',');) {
    if (!std::filesystem::is_directory(directory)) continue;
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
      const std::vector<uint8_t> bytes = read_bytes(entry.path());
      SCOPED_TRACE(entry.path().string());
      // A target that finds something wrong ends the process.
      EXPECT_EQ(LLVMFuzzerTestOneInput(bytes.data(), bytes.size()), 0);
      ++inputs;
    }
  }
  EXPECT_GT(inputs, 0u) << "no input in " << FLUX_CORPUS;
}

}  // namespace

#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

#include "tensor/format.h"
#include "tensor/tensor.h"
#include "weights/safetensors.h"

/// tests/golden/images: what Pillow and diffusers gave.
namespace flux::testing {

inline std::filesystem::path image_golden_folder() {
  return std::filesystem::path(FLUX_TEST_DATA) / "images";
}

/// A file of the folder that its ending names.
inline std::string read_image_golden(const std::string& name) {
  const auto path = image_golden_folder() / name.substr(name.rfind('.') + 1) / name;
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline std::unique_ptr<const SafetensorsFile> open_image_golden(const std::string& name) {
  return SafetensorsFile::open(image_golden_folder() / name);
}

inline ConstTensor tensor(const SafetensorsFile& file, const std::string& name) {
  const StoredTensor* stored = file.find(name);
  EXPECT_NE(stored, nullptr) << name;
  return stored == nullptr ? ConstTensor() : in_memory(*stored).data;
}

inline void expect_equal(const ConstTensor& found, const ConstTensor& expected) {
  ASSERT_EQ(found.dtype(), expected.dtype());
  ASSERT_EQ(found.shape(), expected.shape());
  const auto* a = static_cast<const unsigned char*>(found.raw());
  const auto* b = static_cast<const unsigned char*>(expected.raw());
  const auto bytes = static_cast<size_t>(found.bytes());
  size_t first = 0;
  while (first < bytes && a[first] == b[first]) ++first;
  EXPECT_EQ(first, bytes) << "byte " << first << " is " << int{a[first]} << ", expected "
                          << int{b[first]};
}

}  // namespace flux::testing

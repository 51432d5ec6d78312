#include "weights/gguf.h"

#include <gtest/gtest.h>

#include <cstring>

#include "weights/safetensors.h"

namespace flux {
namespace {

std::filesystem::path golden(const char* name) {
  return std::filesystem::path(FLUX_TEST_DATA) / "single_files" / name;
}

/// Every type has the bits that the Python package gguf gives it.
TEST(Gguf, DecodesEveryTypeBitForBit) {
  const auto file = GgufFile::open(golden("gguf_types.gguf"));
  const auto values = SafetensorsFile::open(golden("gguf_values.safetensors"));
  EXPECT_EQ(file->tensors().size(), 13U);
  for (const auto& [name, tensor] : file->tensors()) {
    const StoredTensor* stored = values->find(name);
    ASSERT_NE(stored, nullptr) << name;
    ASSERT_EQ(stored->shape, tensor.shape) << name;
    const ConstTensor expected = in_memory(*stored).data;
    const Tensor found = decode(tensor, DType::kF32);
    for (int64_t i = 0; i < found.numel(); ++i) {
      uint32_t ours = 0;
      uint32_t theirs = 0;
      std::memcpy(&ours, found.data<float>() + i, sizeof(ours));
      std::memcpy(&theirs, expected.data<float>() + i, sizeof(theirs));
      ASSERT_EQ(ours, theirs) << name << " at " << i;
    }
    // A part is that part of the whole.
    const Tensor part = decode(slice(tensor, 1, tensor.shape[0]), DType::kF32);
    EXPECT_EQ(std::memcmp(part.raw(), found[1].raw(), static_cast<size_t>(part.bytes())), 0)
        << name;
  }
}

TEST(Gguf, ReadsMetadata) {
  const auto file = GgufFile::open(golden("t5-v1_1-encoder-Q8_0.gguf"));
  EXPECT_EQ(file->text("general.architecture"), "t5encoder");
  EXPECT_EQ(file->texts("tokenizer.ggml.tokens")->size(), 605U);
  EXPECT_EQ(file->list("tokenizer.ggml.scores")->width, 4U);
  EXPECT_EQ(file->text("no.such.key"), std::nullopt);
  EXPECT_EQ(file->text("tokenizer.ggml.tokens"), std::nullopt);
}

/// A file as bytes: a version, entries of metadata and tensors, and data.
class Builder {
 public:
  explicit Builder(uint32_t version = 3) {
    bytes_ = "GGUF";
    number<uint32_t>(version);
  }
  template <typename T>
  Builder& number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  Builder& text(const std::string& value) {
    number<uint64_t>(value.size());
    bytes_ += value;
    return *this;
  }
  Builder& tensor(const std::string& name, std::initializer_list<uint64_t> sizes, uint32_t type,
                  uint64_t offset) {
    text(name).number<uint32_t>(static_cast<uint32_t>(sizes.size()));
    for (const uint64_t size : sizes) number(size);
    return number(type).number(offset);
  }
  Builder& counts(uint64_t tensors, uint64_t entries) { return number(tensors).number(entries); }
  Builder& data(size_t size) {
    bytes_.resize((bytes_.size() + 31) / 32 * 32 + size);
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

std::string refusal(const std::string& bytes) {
  try {
    GgufFile::parse(bytes.data(), bytes.size(), "f.gguf");
  } catch (const std::exception& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Gguf, RefusesWhatDoesNotFit) {
  const auto one = [](std::initializer_list<uint64_t> sizes, uint32_t type, uint64_t offset,
                      size_t data) {
    return Builder().counts(1, 0).tensor("a", sizes, type, offset).data(data).bytes();
  };
  const std::pair<std::string, const char*> cases[] = {
      {"GG", "does not begin with"},
      {"GGUF", "ends at byte 4, in the version"},
      {Builder(1).bytes(), "its version is 1"},
      {Builder(0x03000000).bytes(), "it is big-endian, little-endian is read"},  // big-endian
      {Builder().bytes(), "in the number of tensors"},
      {Builder().counts(uint64_t{1} << 60, 0).bytes(), "names 1152921504606846976 tensors"},
      {Builder().counts(0, uint64_t{1} << 60).bytes(), "1152921504606846976 metadata entries"},
      {Builder().counts(0, 1).number(~uint64_t{0}).bytes(), "in the metadata key"},
      {Builder().counts(0, 1).text("\xff").bytes(), "is not UTF-8"},
      {Builder().counts(0, 1).text(std::string(2000, 'a')).bytes(), "has 2000 bytes"},
      {Builder().counts(0, 1).text("k").number<uint32_t>(99).bytes(), "'k' is of type 99"},
      {Builder().counts(0, 1).text("k").number<uint32_t>(8).number(~uint64_t{0}).bytes(),
       "in the k that begins"},
      {Builder()
           .counts(0, 1)
           .text("k")
           .number<uint32_t>(9)
           .number<uint32_t>(8)
           .number(uint64_t{1} << 50)
           .bytes(),
       "1125899906842624 texts, more than"},
      {Builder()
           .counts(0, 1)
           .text("k")
           .number<uint32_t>(9)
           .number<uint32_t>(9)
           .number(uint64_t{1})
           .bytes(),
       "is a list of type 9"},
      {Builder()
           .counts(0, 1)
           .text("k")
           .number<uint32_t>(9)
           .number<uint32_t>(10)
           .number(~uint64_t{0} / 8)
           .bytes(),
       "values, more than"},
      {Builder()
           .counts(0, 2)
           .text("k")
           .number<uint32_t>(0)
           .number<uint8_t>(1)
           .text("k")
           .number<uint32_t>(0)
           .number<uint8_t>(1)
           .bytes(),
       "'k' is there twice"},
      {Builder().counts(0, 1).text("general.alignment").number<uint32_t>(4).number(24U).bytes(),
       "expected a power of two up to 65536"},
      {Builder().counts(0, 1).text("general.alignment").number<uint32_t>(4).number(0U).bytes(),
       "expected a power of two up to 65536"},
      {one({2, 2, 2, 2, 2}, 0, 0, 128), "has 5 dimensions"},
      {one({uint64_t{1} << 40, uint64_t{1} << 40}, 0, 0, 4), "is too large"},
      {one({8}, 0, 16, 64), "begins at byte 16 of the data, which are aligned to 32"},
      {one({8}, 0, ~uint64_t{31}, 64), "begins at byte"},
      {one({17}, 0, 0, 64), "has 68 bytes at byte 0, the data end at byte 64"},
      {one({33}, 2, 0, 64), "no whole blocks of Q4_0 (32 values)"},
      {one({288}, 12, 0, 640), "no whole blocks of Q4_K (256 values)"},
      {Builder().counts(2, 0).tensor("a", {1}, 0, 0).tensor("a", {1}, 0, 32).data(64).bytes(),
       "'a' is named twice"},
      {Builder().counts(2, 0).tensor("a", {9}, 0, 0).tensor("b", {1}, 0, 32).data(64).bytes(),
       "'b' begins at byte 32 of the data, 'a' ends at 36"},
  };
  for (const auto& [bytes, says] : cases) {
    EXPECT_NE(refusal(bytes).find(says), std::string::npos) << says << ": " << refusal(bytes);
  }
  EXPECT_EQ(refusal(one({16}, 0, 0, 64)), "accepted");
}

TEST(Gguf, KeepsWhatItCannotDecodeApart) {
  const std::string bytes =
      Builder().counts(2, 0).tensor("a", {32}, 20, 0).tensor("b", {32}, 77, 32).data(64).bytes();
  const auto file = GgufFile::parse(bytes.data(), bytes.size(), "f.gguf");
  EXPECT_TRUE(file->tensors().empty());
  EXPECT_EQ(file->unreadable().at("a"),
            "is stored as IQ4_NL, expected F32, F16, BF16, Q8_0, Q5_0, Q5_1, Q4_0, Q4_1 or Q2_K to "
            "Q6_K; use a file of these types");
  EXPECT_TRUE(file->unreadable().at("b").starts_with("is stored as type 77, expected"));
}

}  // namespace
}  // namespace flux

#include "weights/safetensors.h"

#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "support/error.h"
#include "support/file.h"
#include "weights/weight_files.h"
#include "weights/weight_scope.h"

namespace flux {
namespace {

namespace fs = std::filesystem;

std::string file_bytes(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes + header + data;
}

std::string refusal(const std::string& bytes) {
  try {
    SafetensorsFile::parse(bytes.data(), bytes.size(), "f");
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
    return e.what();
  }
  return "accepted";
}

const char* kOne = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";

TEST(Safetensors, ReadsTensors) {
  const std::string bytes = file_bytes(
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]},)"
      R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
      R"("e":{"dtype":"F32","shape":[0,3],"data_offsets":[12,12]},)"
      R"("s":{"dtype":"F32","shape":[],"data_offsets":[12,16]}})",
      std::string("\0\0\x80\x3f\0\0\0\x40\x80\x3f\x40\xc0\0\0\x40\x40", 16));
  const auto file = SafetensorsFile::parse(bytes.data(), bytes.size(), "f");
  ASSERT_EQ(file->tensors().size(), 4u);
  const ConstTensor a = in_memory(file->tensors().at("a")).data;
  EXPECT_EQ(a.shape(), (Shape{2}));
  EXPECT_EQ(a.data<float>()[1], 2.0f);
  const Tensor b = decode(file->tensors().at("b"), DType::kF32);
  EXPECT_EQ(b.data<float>()[0], 1.0f);
  EXPECT_EQ(b.data<float>()[1], -3.0f);
  EXPECT_EQ(file->tensors().at("e").numel(), 0);
  EXPECT_EQ(decode(file->tensors().at("s"), DType::kF32).data<float>()[0], 3.0f);
}

TEST(Safetensors, ReadsUnalignedTensors) {
  // A header of odd length: the data begins at an odd address.
  const std::string header = std::string(kOne) + (std::strlen(kOne) % 2 == 0 ? " " : "");
  const std::string bytes = file_bytes(header, std::string("\0\0\x80\x3f\0\0\0\x40", 8));
  const auto file = SafetensorsFile::parse(bytes.data(), bytes.size(), "f");
  EXPECT_EQ(in_memory(file->tensors().at("a")).data.data<float>()[1], 2.0f);
}

struct Damaged {
  const char* name;
  std::string bytes;
  const char* says;
};

class SafetensorsRefuses : public ::testing::TestWithParam<Damaged> {};

TEST_P(SafetensorsRefuses, NamesWhatIsWrong) {
  EXPECT_NE(refusal(GetParam().bytes).find(GetParam().says), std::string::npos)
      << refusal(GetParam().bytes);
}

std::string entry(const std::string& body, const std::string& data = std::string(8, '\0')) {
  return file_bytes("{\"a\":{" + body + "}}", data);
}

INSTANTIATE_TEST_SUITE_P(
    Files, SafetensorsRefuses,
    ::testing::Values(
        Damaged{"short_file", "abc", "3 bytes, shorter than its length field"},
        Damaged{"huge_header", std::string(8, '\xff'), "does not fit into 8 bytes"},
        Damaged{"header_beyond_end", file_bytes("{}", "").substr(0, 9), "a header of 2 bytes"},
        Damaged{"not_json", file_bytes("nonsense", ""), "the header is not JSON"},
        Damaged{"not_object", file_bytes("[1]", ""), "the header is not a JSON object"},
        Damaged{"deep", file_bytes(std::string(100, '['), ""), "nests deeper than 4 levels"},
        Damaged{"twice",
                file_bytes(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                           R"("a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
                           ""),
                "tensor 'a' is named twice"},
        Damaged{"no_dtype", entry(R"("shape":[2],"data_offsets":[0,8])"), "lacks dtype"},
        Damaged{"bytes_of_fp8", entry(R"("dtype":"F8_E4M3","shape":[4],"data_offsets":[0,8])"),
                "shape [4] of F8_E4M3 takes 4 bytes, its data offsets hold 8"},
        Damaged{"half_a_byte", entry(R"("dtype":"F4","shape":[17],"data_offsets":[0,8])"),
                "shape [17] of F4 takes 8 bytes"},
        Damaged{"dtype_number", entry(R"("dtype":7,"shape":[8],"data_offsets":[0,8])"),
                "dtype 7 is not a text"},
        Damaged{"negative_size", entry(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"),
                "size -2 is not a non-negative integer"},
        Damaged{"fraction", entry(R"("dtype":"F32","shape":[2.5],"data_offsets":[0,8])"),
                "size 2.5 is not a non-negative integer"},
        Damaged{"overflow",
                entry(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8])"),
                "is too large"},
        Damaged{"rank",
                entry(fmt::format(R"("dtype":"U8","shape":[{}8],"data_offsets":[0,8])",
                                  fmt::join(std::vector<std::string>(65, "1,"), ""))),
                "is not a list of at most 64 sizes"},
        Damaged{"lfs", "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n",
                "is a git LFS pointer"},
        Damaged{"refusal", "Access to model x/y is restricted. You must be authenticated.",
                "accept the model's licence"},
        Damaged{"web_page", "\n<!DOCTYPE html><html></html>", "is a web page"},
        Damaged{"gguf", std::string("GGUF\x03\0\0\0", 8), "is a GGUF file"},
        Damaged{"offset_pair", entry(R"("dtype":"F32","shape":[2],"data_offsets":[0])"),
                "is not a pair"},
        Damaged{"negative_offset", entry(R"("dtype":"F32","shape":[2],"data_offsets":[-8,0])"),
                "data offset -8 is not"},
        Damaged{"reversed", entry(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"),
                "data offsets [8, 0] do not fit into 8 bytes"},
        Damaged{"beyond_end", entry(R"("dtype":"F32","shape":[4],"data_offsets":[0,16])"),
                "data offsets [0, 16] do not fit into 8 bytes"},
        Damaged{"wrong_bytes", entry(R"("dtype":"F32","shape":[1],"data_offsets":[0,8])"),
                "takes 4 bytes, its data offsets hold 8"},
        Damaged{"overlap",
                file_bytes(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},)"
                           R"("b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
                           std::string(8, '\0')),
                "tensor 'b' begins at byte 4 of the data, the one before ends at 8"},
        Damaged{"gap",
                file_bytes(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
                           std::string(8, '\0')),
                "tensor 'a' begins at byte 4 of the data, the one before ends at 0"},
        Damaged{"trailing", file_bytes(kOne, std::string(12, '\0')),
                "its tensors end at byte 8 of 12 bytes"}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(SafetensorsTest, KeepsWhatItCannotReadApart) {
  const std::string bytes =
      file_bytes(R"({"a":{"dtype":"F8_E5M2","shape":[4],"data_offsets":[0,4]},)"
                 R"("b":{"dtype":"U8","shape":[1,1,1,1,1,4],"data_offsets":[4,8]},)"
                 R"("c":{"dtype":"F4","shape":[2,4],"data_offsets":[8,12]},)"
                 R"("d":{"dtype":"NEW","shape":[3],"data_offsets":[12,13]},)"
                 R"("e":{"dtype":"U8","shape":[3],"data_offsets":[13,16]}})",
                 std::string(16, '\0'));
  const auto file = SafetensorsFile::parse(bytes.data(), bytes.size(), "test");
  ASSERT_EQ(file->tensors().size(), 1u);
  EXPECT_TRUE(file->tensors().contains("e"));
  ASSERT_EQ(file->unreadable().size(), 4u);
  EXPECT_EQ(file->unreadable().at("a"),
            "is stored as F8_E5M2, expected F32, BF16, F16, F64 or F8_E4M3; convert it to BF16");
  EXPECT_EQ(file->unreadable().at("b"), "has 6 dimensions, expected at most 5");
}

class WeightFilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::temp_directory_path() / ("flux_weights_test." + std::to_string(::getpid()));
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }
  void TearDown() override { fs::remove_all(directory_); }

  void write(const std::string& name, const std::string& text) const {
    std::ofstream(directory_ / name) << text;
  }
  void write_tensor(const std::string& file, const std::string& name) const {
    float value[] = {1, 2};
    write_safetensors(directory_ / file, {{name, Tensor(value, DType::kF32, {2})}});
  }
  std::string open_refusal() const {
    try {
      WeightFiles::open(directory_, "model");
    } catch (const Error& e) {
      return e.what();
    }
    return "accepted";
  }

  fs::path directory_;
};

TEST_F(WeightFilesTest, WritesWhatItReads) {
  write_tensor("model.safetensors", "a");
  const auto files = WeightFiles::open(directory_, "model");
  ASSERT_NE(files->find("a"), nullptr);
  EXPECT_EQ(in_memory(*files->find("a")).data.data<float>()[1], 2.0f);
  EXPECT_EQ(files->parameter_count(), 2);
  EXPECT_EQ(files->bytes(), 8);
  EXPECT_EQ(files->dtype(), DType::kF32);
}

TEST_F(WeightFilesTest, ReadsShards) {
  write_tensor("one.safetensors", "a");
  write_tensor("two.safetensors", "b");
  write("model.safetensors.index.json",
        R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  const auto files = WeightFiles::open(directory_, "model");
  EXPECT_EQ(files->names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(files->file_of("b").filename(), "two.safetensors");
}

TEST_F(WeightFilesTest, ChoosesTheFilesThatTheLibraryOfThatNameLoads) {
  for (const char* stem : {"model", "diffusion_pytorch_model"}) {
    write_tensor(fmt::format("{}.safetensors", stem), "single");
    write_tensor(fmt::format("{}-00001-of-00001.safetensors", stem), "shard");
    write(fmt::format("{}.safetensors.index.json", stem),
          fmt::format(R"({{"weight_map":{{"shard":"{}-00001-of-00001.safetensors"}}}})", stem));
  }
  EXPECT_EQ(WeightFiles::open(directory_, "model")->names(), (std::vector<std::string>{"single"}));
  EXPECT_EQ(WeightFiles::open(directory_, "diffusion_pytorch_model")->names(),
            (std::vector<std::string>{"shard"}));
  // The index is not even read.
  fs::remove(directory_ / "model-00001-of-00001.safetensors");
  EXPECT_EQ(WeightFiles::open(directory_, "model")->names(), (std::vector<std::string>{"single"}));
}

TEST_F(WeightFilesTest, RefusesAnIndexThatDoesNotFit) {
  EXPECT_NE(open_refusal().find("neither model.safetensors nor"), std::string::npos);
  const std::pair<const char*, const char*> cases[] = {
      {R"({})", "no object 'weight_map'"},
      {R"({"weight_map":{"a":7}})", "weight_map['a'] is 7"},
      {R"({"weight_map":{"a":"../x.safetensors"}})", "must be a file beside its index"},
      {R"({"weight_map":{"a":".."}})", "must be a file beside its index"},
      {R"({"weight_map":{"a":"missing.safetensors"}})", "cannot be opened"},
      {R"({"weight_map":{"b":"one.safetensors"}})", "tensor 'b' is missing, although"},
      {R"({"weight_map":{"a":"one.safetensors","c":"same.safetensors"}})", "tensor 'a' is in"},
  };
  write_tensor("one.safetensors", "a");
  write_tensor("same.safetensors", "a");
  for (const auto& [index, says] : cases) {
    write("model.safetensors.index.json", index);
    EXPECT_NE(open_refusal().find(says), std::string::npos) << index << ": " << open_refusal();
  }
}

TEST_F(WeightFilesTest, ScopesCheckWhatTheyHandOut) {
  write_tensor("model.safetensors", "block.0.weight");
  const auto files = WeightFiles::open(directory_, "model");
  const WeightScope root(*files);
  const WeightScope block = root / "block" / int64_t{0};
  EXPECT_EQ(root.unused({}), (std::vector<std::string>{"block.0.weight"}));
  EXPECT_TRUE(root.unused({"block."}).empty());
  try {
    block.take("weight", {3});
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find(
                  "model.safetensors: tensor 'block.0.weight' has shape [2], expected [3]"),
              std::string::npos)
        << e.what();
  }
  try {
    block.take("bias", {3});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kNotFound);
    EXPECT_NE(std::string(e.what()).find("tensor 'block.0.bias' is missing, expected with"),
              std::string::npos)
        << e.what();
  }
  EXPECT_EQ(block.take("weight", {2}).data<float>()[0], 1.0f);
  EXPECT_TRUE(root.unused({}).empty());
}

/// What is said of a change to a file of two tensors between opening it and reading one.
std::string refusal_after(const fs::path& file, const std::function<void()>& change) {
  std::vector<float> values(1 << 20, 3.0f);
  const Tensor tensor(values.data(), DType::kF32, {1 << 20});
  write_safetensors(file, {{"a", tensor}, {"b", tensor}});
  const auto files = WeightFiles::open_file(file);
  EXPECT_EQ(in_memory(*files->find("a"), 2).data.data<float>()[40000], 3.0f);
  change();
  try {
    in_memory(*files->find("b"), 2);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
    EXPECT_NE(std::string(e.what()).find(file.string()), std::string::npos);
    return e.what();
  }
  return "read";
}

TEST_F(WeightFilesTest, SaysThatAFileChangedWhileItWasLoaded) {
  const fs::path file = directory_ / "model.safetensors";
  const auto said = [&](const std::function<void()>& change) {
    return refusal_after(file, change);
  };
  EXPECT_EQ(said([] {}), "read");
  for (const uintmax_t size : {uintmax_t{0}, uintmax_t{5'000'000}}) {
    EXPECT_NE(said([&] { fs::resize_file(file, size); }).find(fmt::format("and has {} now", size)),
              std::string::npos);
  }
  EXPECT_NE(said([&] {
              std::this_thread::sleep_for(std::chrono::milliseconds(20));  // a tick of its clock
              std::fstream(file, std::ios::in | std::ios::out).put('x');
            }).find("and was written to"),
            std::string::npos);
  // A new file under the name is another file.
  EXPECT_EQ(said([&] { write_safetensors(file, {}); }), "read");
  EXPECT_EQ(said([&] { fs::remove(file); }), "read");
}

TEST_F(WeightFilesTest, AFailedWriteLeavesNothing) {
  {
    AtomicFile file(directory_ / "out.bin");
    file.write("abc", 3);
  }
  EXPECT_TRUE(fs::is_empty(directory_));
  {
    AtomicFile file(directory_ / "out.bin");
    file.write("abc", 3);
    file.commit();
  }
  EXPECT_EQ(fs::file_size(directory_ / "out.bin"), 3u);
  EXPECT_THROW(AtomicFile(directory_ / "missing" / "out.bin"), Error);
  ASSERT_EQ(::mkfifo((directory_ / "fifo").c_str(), 0600), 0);
  EXPECT_THROW(AtomicFile(directory_ / "fifo"), Error);
  AtomicFile full("/dev/full");
  EXPECT_THROW(full.write("abc", 3), Error);
}

}  // namespace
}  // namespace flux

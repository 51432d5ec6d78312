// Names of adapters in requests, and the files that they are.
#include "triton/lora_directory.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace flux::triton {
namespace {

namespace fs = std::filesystem;

class LoraDirectoryTest : public ::testing::Test {
 protected:
  LoraDirectoryTest() {
    fs::remove_all(repository);
    fs::create_directories(loras);
    for (const char* name : {"style.safetensors", "a.b.safetensors", "style.ckpt",
                             "x,y.safetensors", "two\nlines.safetensors", "bad\xff.safetensors"}) {
      std::ofstream(loras / name) << "tensors";
    }
    settings.kind = {"dev_", "bls_stream"};
    settings.directory = repository / "dev_bls_stream" / "1";
  }
  ~LoraDirectoryTest() override { fs::remove_all(repository); }

  std::string refusal(const std::string& text) const {
    try {
      LoraDirectory(settings).find(text);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_TRUE(std::string(error.what()).starts_with("lora ")) << error.what();
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
      return error.what();
    }
    return "accepted";
  }

  fs::path repository = fs::path(::testing::TempDir()) / "lora_directory";
  fs::path loras = repository / "dev_bls" / "loras";
  ModelSettings settings;
};

TEST_F(LoraDirectoryTest, FindsFilesOfThePipeline) {
  const auto found = LoraDirectory(settings).find(" style , a.b:-0.5,style:1e-3");
  ASSERT_EQ(found.size(), 3U);
  EXPECT_EQ(found[0].file, (loras / "style.safetensors").string());
  EXPECT_EQ(found[0].scale, 1.0);
  EXPECT_EQ(found[1].file, (loras / "a.b.safetensors").string());
  EXPECT_EQ(found[1].scale, -0.5);
  EXPECT_EQ(found[2].scale, 1e-3);
  for (const char* none : {"", " ", "\t\n"})
    EXPECT_TRUE(LoraDirectory(settings).find(none).empty());
}

TEST_F(LoraDirectoryTest, NamesWhatIsThere) {
  EXPECT_EQ(refusal("other"), "lora \"other\" is not there: the adapters are a.b, style");
  EXPECT_EQ(refusal("x,style"), "lora \"x\" is not there: the adapters are a.b, style");
  for (int i = 0; i < 30; ++i) {
    std::ofstream(loras / fmt::format("n{:02}.safetensors", i)) << "tensors";
  }
  EXPECT_TRUE(refusal("other").ends_with("n17, n18 and 12 more")) << refusal("other");
  fs::remove_all(loras);
  EXPECT_EQ(refusal("style"),
            "lora \"style\" is not there: there are no adapters; put *.safetensors files into "
            "dev_bls/loras");
}

TEST_F(LoraDirectoryTest, RefusesWhatIsNoName) {
  EXPECT_NE(refusal("../loras/style").find("is a path"), std::string::npos);
  EXPECT_NE(refusal("style\\x").find("is a path"), std::string::npos);
  EXPECT_NE(refusal(std::string("sty\0le", 6)).find("NUL"), std::string::npos);
  EXPECT_NE(refusal("style\xff").find("not valid UTF-8"), std::string::npos);
  EXPECT_NE(refusal(std::string(256, 'x')).find("256 bytes"), std::string::npos);
  EXPECT_NE(refusal("style,").find("blank"), std::string::npos);
  EXPECT_EQ(refusal("style:0x1"),
            "lora \"style\" has the scale \"0x1\": must be a number, as in NAME:0.8");
  EXPECT_NE(refusal("style:").find("has the scale \"\""), std::string::npos);
}

TEST_F(LoraDirectoryTest, RefusesLinksThatLeave) {
  fs::create_symlink("/etc/hostname", loras / "away.safetensors");
  fs::create_symlink("style.safetensors", loras / "same.safetensors");
  fs::create_directory(loras / "sub");
  std::ofstream(loras / "sub" / "deep.safetensors") << "tensors";
  fs::create_symlink("sub/deep.safetensors", loras / "deep.safetensors");
  for (const char* name : {"away", "deep"}) {
    EXPECT_NE(refusal(name).find("is a link that leaves the directory"), std::string::npos);
  }
  EXPECT_EQ(LoraDirectory(settings).find("same")[0].file, (loras / "same.safetensors").string());
}

TEST_F(LoraDirectoryTest, ErrorsNameNoDirectory) {
  const fs::path file = loras / "style.safetensors";
  const Error gone =
      lora_error(file, Error(ErrorCode::kNotFound, fmt::format("{}: is gone, {}", file, file)));
  EXPECT_EQ(gone.code(), ErrorCode::kInvalidArgument);
  EXPECT_STREQ(gone.what(), "lora \"style\": style.safetensors: is gone, style.safetensors");
  const Error other = lora_error({}, Error(ErrorCode::kUnsupported, "cuda:0: no"));
  EXPECT_EQ(other.code(), ErrorCode::kUnsupported);
  EXPECT_STREQ(other.what(), "lora: cuda:0: no");
}

}  // namespace
}  // namespace flux::triton

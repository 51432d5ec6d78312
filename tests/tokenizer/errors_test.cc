// What is refused, and that nothing takes long.
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>

#include "support/error.h"
#include "tokenizer/charsmap.h"
#include "tokenizer/clip_bpe.h"
#include "tokenizer/t5_sentencepiece.h"
#include "tokenizer/temporary_directory.h"

namespace flux {
namespace {

namespace fs = std::filesystem;

const fs::path kGolden = fs::path(FLUX_TEST_DATA) / "tokenizer";

// Runs `work`, which must throw `code` with `part` in its message.
void expect_error(ErrorCode code, const std::string& part, const std::function<void()>& work) {
  try {
    work();
    ADD_FAILURE() << "nothing thrown; expected: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
  }
}

struct BadFile {
  const char* name;  // file replaced
  std::string content;
  const char* message;  // part of the error
};

class BadClipFile : public ::testing::TestWithParam<BadFile> {};

TEST_P(BadClipFile, IsRefused) {
  const test::TemporaryDirectory directory;
  directory.copy(kGolden / "clip/vocab.json", "vocab.json");
  directory.copy(kGolden / "clip/merges.txt", "merges.txt");
  directory.write(GetParam().name, GetParam().content);
  expect_error(ErrorCode::kInvalidArgument, GetParam().message,
               [&] { ClipTokenizer::load(directory.path()); });
}

INSTANTIATE_TEST_SUITE_P(
    Files, BadClipFile,
    ::testing::Values(
        BadFile{"vocab.json", R"({"a":0,"b":)", "not valid JSON at byte"},
        BadFile{"vocab.json", R"(["a","b"])", "vocabulary"},
        BadFile{"vocab.json", R"({"a":0,"b":0})", "two pieces have the id 0"},
        BadFile{"vocab.json", R"({"a":0,"a":1})", "is there twice"},
        BadFile{"vocab.json", R"({"a":-1})", "has the id -1"},
        BadFile{"vocab.json", R"({"a":16777216})", "allowed are 0 to 16777215"},
        BadFile{"vocab.json", R"({"a":18446744073709551615})", "allowed are 0 to"},
        BadFile{"vocab.json", R"({"a":1.5})", "wrong type"},
        BadFile{"vocab.json", R"({"a":{"b":1}})", "an object inside"},
        BadFile{"vocab.json", "{\"\xff\":1}", "not valid JSON"},
        BadFile{"vocab.json", R"({"a":0})", "needs the piece"},
        BadFile{"vocab.json", "", "not valid JSON"},
        BadFile{"merges.txt", "#version: 0.2\nab\n", "line 2 is not two pieces"},
        BadFile{"merges.txt", "a b c\n", "line 1 is not two pieces"},
        BadFile{"merges.txt", "nowhere tobefound\n", "needs the piece \"nowhere\""},
        BadFile{"tokenizer.json", R"({"model":{"vocab":{"a":0},"merges":["a"]}})",
                "two pieces divided"},
        BadFile{"tokenizer.json", R"({"model":{"vocab":{"a":0},"merges":[["a"]]}})", "pair"},
        BadFile{"tokenizer.json", R"({"model":{"vocab":{"a":0},"merges":[["a","b","c"]]}})",
                "string"},
        BadFile{"tokenizer.json", R"({"model":{"vocab":{"a":0},"merges":[["a","x"]]}})", "\"x\""},
        BadFile{"tokenizer.json", R"({"model":{"vocab":[["a",0.5]]}})", "another model"},
        BadFile{"tokenizer.json", R"({"model":{"vocab":{},"vocab":{}}})", "twice"},
        BadFile{"tokenizer.json", R"({})", "model.vocab"},
        BadFile{"tokenizer.json", R"({"added_tokens":{},"model":{"vocab":{"a":0}}})",
                "added_tokens"},
        BadFile{"tokenizer.json", std::string(100000, '['), "must hold a JSON object"},
        BadFile{"tokenizer.json", "{\"a\":" + std::string(100000, '['), "nested levels"},
        BadFile{"tokenizer_config.json", std::string(100000, '['), "nested levels"},
        BadFile{"tokenizer_config.json", R"([1])", "not an object"},
        BadFile{"tokenizer_config.json", R"({"model_max_length":1})", "allowed are 2 to"},
        BadFile{"tokenizer_config.json", R"({"model_max_length":1e30})", "model_max_length"},
        BadFile{"tokenizer_config.json", R"({"model_max_length":"77"})", "a number"},
        BadFile{"tokenizer_config.json", R"({"eos_token":null})", "eos_token is null"},
        BadFile{"tokenizer_config.json", R"({"eos_token":5})", "eos_token"},
        BadFile{"tokenizer_config.json", R"({"padding_side":"up"})", "padding_side"},
        BadFile{"tokenizer_config.json", R"({"added_tokens_decoder":{"x":{"content":"a"}}})",
                "\"x\""},
        BadFile{"tokenizer_config.json", R"({"added_tokens_decoder":{"1":{"lstrip":1}}})",
                "content"},
        BadFile{"tokenizer_config.json", R"({"additional_special_tokens":7})", "a list"},
        BadFile{"added_tokens.json", R"({"a":5,"b":5})", "the id 5"},
        BadFile{"added_tokens.json", R"({"a":"b"})", "an id"}));

class BadT5File : public ::testing::TestWithParam<BadFile> {};

TEST_P(BadT5File, IsRefused) {
  const test::TemporaryDirectory directory;
  directory.write(GetParam().name, GetParam().content);
  expect_error(ErrorCode::kInvalidArgument, GetParam().message,
               [&] { T5Tokenizer::load(directory.path()).encode("\u00e9 abc", 16); });
}

std::string t5_json(const std::string& normalizer, const std::string& vocab) {
  return R"({"normalizer":)" + normalizer + R"(,"model":{"vocab":)" + vocab + "}}";
}
const std::string kVocab = R"([["<pad>",0],["</s>",0],["<unk>",0],["a",-1]])";

INSTANTIATE_TEST_SUITE_P(
    Files, BadT5File,
    ::testing::Values(
        BadFile{"tokenizer.json", t5_json("null", R"([["a",0]])"), "pieces; a T5 tokenizer has 3"},
        BadFile{"tokenizer.json", t5_json("null", R"([["a"]])"), "not [text, score]"},
        BadFile{"tokenizer.json", t5_json("null", R"([["a",1,2]])"), "number"},
        BadFile{"tokenizer.json", t5_json("null", R"([[1,"a"]])"), "number"},
        BadFile{"tokenizer.json", t5_json("null", R"(["a"])"), "string"},
        BadFile{"tokenizer.json", t5_json("null", R"([["a",1e999]])"), "not valid JSON"},
        BadFile{"tokenizer.json", t5_json("null", R"({"a":1})"), "another model"},
        BadFile{
            "tokenizer.json",
            t5_json("null", R"([["a",0],["b",0],["c",0],[")" + std::string(2000, 'x') + R"(",0]])"),
            "at most 1024 bytes"},
        BadFile{"tokenizer.json",
                t5_json(R"({"type":"Precompiled","precompiled_charsmap":"A"})", kVocab),
                "multiple of 4"},
        BadFile{"tokenizer.json",
                t5_json(R"({"type":"Precompiled","precompiled_charsmap":"A*=="})", kVocab),
                "not base64"},
        BadFile{"tokenizer.json",
                t5_json(R"({"type":"Precompiled","precompiled_charsmap":""})", kVocab), "0 bytes"},
        BadFile{"tokenizer.json",
                t5_json(R"({"type":"Precompiled","precompiled_charsmap":"/////wAAAAA="})", kVocab),
                "its trie has 4294967295 bytes"},
        BadFile{"tokenizer.json",
                t5_json(R"({"type":"Precompiled","precompiled_charsmap":"BAAAAAD8//8="})", kVocab),
                "points to unit"},
        BadFile{"tokenizer.json",
                t5_json(R"({"type":"Precompiled","precompiled_charsmap":5})", kVocab),
                "not a text"},
        BadFile{"spiece.model", "", "holds no pieces"},
        BadFile{"spiece.model", "\x0a\xff\xff\xff\xff\x0f", "beyond the end"},
        BadFile{"spiece.model", "\x0a", "the end inside a number"},
        BadFile{"spiece.model", "\x0b", "unknown kind"},
        BadFile{"spiece.model", std::string(12, '\xff'), "more than ten bytes"},
        BadFile{"spiece.model", "\x0a\x03\x0a\x01\xff", "not UTF-8"},
        BadFile{"spiece.model",
                std::string("\x0a\x08\x0a\x01"
                            "a\x15\0\0\xc0\x7f",
                            10),
                "scores are finite"}));

TEST(TokenizerFiles, MissingOnesAreNamed) {
  const test::TemporaryDirectory directory;
  expect_error(ErrorCode::kNotFound, "vocab.json and merges.txt",
               [&] { ClipTokenizer::load(directory.path()); });
  expect_error(ErrorCode::kNotFound, "spiece.model", [&] { T5Tokenizer::load(directory.path()); });
  directory.copy(kGolden / "clip/vocab.json", "vocab.json");
  expect_error(ErrorCode::kNotFound, "merges.txt", [&] { ClipTokenizer::load(directory.path()); });
  fs::create_directory(directory.path() / "tokenizer.json");
  expect_error(ErrorCode::kInvalidArgument, "not a regular file",
               [&] { T5Tokenizer::load(directory.path()); });
}

TEST(TokenizerFiles, HugeOnesAreNotRead) {
  const test::TemporaryDirectory directory;
  directory.write("tokenizer.json", "{}");
  fs::resize_file(directory.path() / "tokenizer.json", (256ull << 20) + 1);  // sparse
  expect_error(ErrorCode::kInvalidArgument, "268435457 bytes",
               [&] { ClipTokenizer::load(directory.path()); });
}

class Prompts : public ::testing::Test {
 protected:
  Prompts() {
    directory_.copy(kGolden / "clip/tokenizer.json", "tokenizer.json");
    clip_.emplace(ClipTokenizer::load(directory_.path()));
    t5_.emplace(T5Tokenizer::load(kGolden / "t5"));
  }
  test::TemporaryDirectory directory_;
  std::optional<ClipTokenizer> clip_;
  std::optional<T5Tokenizer> t5_;
};

TEST_F(Prompts, InvalidUtf8IsRefusedWithItsPlace) {
  for (const char* bad : {"ab\xff", "ab\xc3", "ab\xc0\x80", "ab\xed\xa0\x80", "ab\xf4\x90\x80\x80",
                          "ab\xe2\x82", "ab\x80", "ab\xf8\x88\x80\x80\x80"}) {
    expect_error(ErrorCode::kInvalidArgument, "offset 2", [&] { clip_->encode(bad); });
    expect_error(ErrorCode::kInvalidArgument, "offset 2", [&] { t5_->encode(bad, 8); });
  }
}

TEST_F(Prompts, LengthsAreBounded) {
  const std::string longest(kMaxPromptBytes, 'a');
  EXPECT_TRUE(clip_->encode(longest).truncated);
  expect_error(ErrorCode::kInvalidArgument, "65537 bytes", [&] { clip_->encode(longest + "a"); });
  expect_error(ErrorCode::kInvalidArgument, "65537 bytes", [&] { t5_->encode(longest + "a", 8); });
  for (const int length : {0, -1, 65537}) {
    expect_error(ErrorCode::kInvalidArgument, "max_sequence_length",
                 [&] { t5_->encode("a", length); });
  }
}

TEST_F(Prompts, EndTokensStayAndTruncationIsTold) {
  EXPECT_EQ(t5_->encode("a cat", 1).ids, std::vector<int32_t>{1});
  EXPECT_TRUE(t5_->encode("a cat", 1).truncated);
  const TokenIds whole = t5_->encode("a cat", 64);
  EXPECT_FALSE(whole.truncated);
  EXPECT_EQ(whole.ids.back(), 0);
  const TokenIds cut = clip_->encode(std::string(200, '!') + " cat");
  EXPECT_FALSE(clip_->encode("cat").truncated);
  EXPECT_EQ(cut.ids.size(), 77u);
  EXPECT_EQ(cut.ids.front(), clip_->max_id() - 1);
  EXPECT_EQ(cut.ids.back(), clip_->max_id());
}

// Quadratic time on 64 KiB would take minutes, more under a sanitizer.
TEST_F(Prompts, LongOnesTakeLittleTime) {
  std::string marks = "a";
  while (marks.size() + 4 < kMaxPromptBytes) marks += "\u0301\u0323";
  std::string zwj;
  while (zwj.size() + 8 < kMaxPromptBytes) zwj += "\U0001f468\u200d";
  const auto start = std::chrono::steady_clock::now();
  for (const std::string& text :
       {std::string(kMaxPromptBytes, 'a'), std::string(kMaxPromptBytes, '!'),
        std::string(kMaxPromptBytes, ' '), std::string(kMaxPromptBytes, '<'), marks, zwj}) {
    EXPECT_EQ(clip_->encode(text).ids.size(), 77u);
    EXPECT_EQ(t5_->encode(text, 512).ids.size(), 512u);
  }
  const auto taken = std::chrono::steady_clock::now() - start;
  EXPECT_LT(std::chrono::duration<double>(taken).count(), 20.0);
}

TEST(BpeModel, VocabularyWithoutTheUnknownTokenSaysSo) {
  const test::TemporaryDirectory directory;
  directory.write("vocab.json", R"({"a":0,"a</w>":1})");
  directory.write("merges.txt", "");
  const ClipTokenizer tokenizer = ClipTokenizer::load(directory.path());
  EXPECT_EQ(tokenizer.encode("aa").ids[1], 0);
  expect_error(ErrorCode::kInvalidArgument, "unknown token", [&] { tokenizer.encode("b"); });
}

}  // namespace
}  // namespace flux

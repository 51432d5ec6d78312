// Ids against those of transformers (tests/reference/make_tokenizer_golden.py).
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "tokenizer/clip_bpe.h"
#include "tokenizer/sentencepiece_model.h"
#include "tokenizer/t5_sentencepiece.h"
#include "tokenizer/temporary_directory.h"

namespace flux {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;
using Encode = std::function<TokenIds(const std::string&)>;

const fs::path kGolden = fs::path(FLUX_TEST_DATA) / "tokenizer";

json read_json(const fs::path& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  return json::parse(file);
}

std::string prompt_of(const json& item) {
  const auto text = item.at("text").get<std::string>();
  std::string out;
  for (int i = item.value("times", 1); i > 0; --i) out += text;
  return out;
}

// Number of prompts whose ids differ from the golden ones.
int count_differences(const json& golden, const Encode& encode) {
  const json prompts = read_json(kGolden / "prompts.json");
  EXPECT_EQ(prompts.size(), golden.at("ids").size());
  const auto length = golden.at("max_length").get<size_t>();
  int different = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const std::string prompt = prompt_of(prompts[i]);
    auto expected = golden.at("ids")[i].get<std::vector<int32_t>>();
    expected.resize(length, golden.at("pad").get<int32_t>());
    const TokenIds row = encode(prompt);
    if (row.ids == expected) continue;
    ++different;
    ADD_FAILURE() << prompts[i].dump() << "\nexpected " << json(expected).dump() << "\nfound    "
                  << json(row.ids).dump();
  }
  return different;
}

Encode load(const json& golden, const fs::path& directory) {
  if (golden.at("kind") == "clip") {
    const ClipTokenizer tokenizer = ClipTokenizer::load(directory);
    EXPECT_EQ(tokenizer.max_length(), golden.at("max_length").get<int>());
    return [tokenizer](const std::string& text) { return tokenizer.encode(text); };
  }
  const T5Tokenizer tokenizer = T5Tokenizer::load(directory);
  const int length = golden.at("max_length").get<int>();
  return [tokenizer, length](const std::string& text) { return tokenizer.encode(text, length); };
}

void assemble(const json& golden, const test::TemporaryDirectory& directory) {
  for (const auto& [name, source] : golden.at("files").items()) {
    directory.copy(kGolden / source.get<std::string>(), name);
  }
}

class GoldenTokenizer : public ::testing::TestWithParam<const char*> {};

TEST_P(GoldenTokenizer, GivesTheIdsOfTransformers) {
  const json golden = read_json(kGolden / (std::string("cases_") + GetParam() + ".json"));
  const test::TemporaryDirectory directory;
  assemble(golden, directory);
  EXPECT_EQ(count_differences(golden, load(golden, directory.path())), 0);
}

INSTANTIATE_TEST_SUITE_P(All, GoldenTokenizer,
                         ::testing::Values("clip_published", "clip_map", "clip_json", "clip_short",
                                           "t5_spiece", "t5_published"));

std::string base64(std::string_view bytes) {
  constexpr std::string_view kAlphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t bits = 0;
    for (size_t k = 0; k < 3; ++k) {
      bits = bits << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    }
    for (size_t k = 0; k < 4; ++k) {
      out += i + k > bytes.size() ? '=' : kAlphabet[(bits >> (18 - 6 * k)) & 63];
    }
  }
  return out;
}

// tokenizer.json as transformers 4 converts a spiece.model.
json converted(const SentencePieceModel& model) {
  json vocab = json::array();
  for (const auto& piece : model.pieces) {
    vocab.push_back({piece.text, static_cast<double>(piece.score)});
  }
  json added = json::array();
  const auto add = [&added](size_t id, const std::string& content) {
    added.push_back({{"id", id}, {"content", content}, {"special", true}, {"normalized", false}});
  };
  for (size_t id = 0; id < 3; ++id) add(id, model.pieces[id].text);
  for (int i = 99; i >= 0; --i) {
    const std::string name = "<extra_id_" + std::to_string(i) + ">";
    add(vocab.size(), name);
    vocab.push_back({name, 0.0});
  }
  const json precompiled = {{"type", "Precompiled"},
                            {"precompiled_charsmap", base64(model.precompiled_charsmap)}};
  const json strip = {{"type", "Strip"}, {"strip_left", false}, {"strip_right", true}};
  return {{"added_tokens", added},
          {"normalizer", {{"type", "Sequence"}, {"normalizers", {precompiled, strip}}}},
          {"model", {{"type", "Unigram"}, {"unk_id", 2}, {"vocab", vocab}}}};
}

TEST(GoldenTokenizerJson, GivesTheSameAsTheSentencePieceFile) {
  const json golden = read_json(kGolden / "cases_t5_spiece.json");
  const test::TemporaryDirectory directory;
  directory.write("tokenizer.json",
                  converted(read_sentencepiece_model(kGolden / "t5/spiece.model")).dump());
  EXPECT_EQ(count_differences(golden, load(golden, directory.path())), 0);
  // When both are there, tokenizer.json counts.
  directory.write("spiece.model", "not read");
  EXPECT_EQ(count_differences(golden, load(golden, directory.path())), 0);
}

TEST(GoldenTokenizerThreads, EncodeFromManyThreadsGivesTheSame) {
  for (const char* name : {"cases_clip_json.json", "cases_t5_published.json"}) {
    const json golden = read_json(kGolden / name);
    const test::TemporaryDirectory directory;
    assemble(golden, directory);
    const Encode encode = load(golden, directory.path());
    std::vector<std::jthread> threads;
    std::array<int, 4> different{};
    for (int& count : different) {
      threads.emplace_back(
          [&golden, &encode, &count] { count = count_differences(golden, encode); });
    }
    threads.clear();
    EXPECT_EQ(different, (std::array<int, 4>{}));
  }
}

}  // namespace
}  // namespace flux

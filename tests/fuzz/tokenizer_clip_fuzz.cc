// Fuzzes the CLIP tokenizer with prompts and with its files.
//   cmake -S . -B build-fuzz -G Ninja -DFLUX_FUZZ=ON -DCMAKE_CXX_COMPILER=clang++
//   ninja -C build-fuzz tokenizer_clip_fuzz && mkdir -p out/corpus
//   build-fuzz/tests/fuzz/tokenizer_clip_fuzz -max_total_time=60 -max_len=4096 out/corpus
//   tests/golden/tokenizer/clip
// The first byte says what the rest is: a prompt (even), or one of the files (odd).

#include "fuzz/tokenizer_fuzz.h"
#include "tokenizer/clip_bpe.h"

namespace {

constexpr const char* kVocabulary =
    R"({"a":0,"b":1,"a</w>":2,"b</w>":3,"ab":4,"ab</w>":5,"aab</w>":6,"!</w>":7,"Ã":8,"<|startoftext|>":9,"<|endoftext|>":10})";
constexpr const char* kMerges = "#version: 0.2\na b</w>\na ab</w>\na b\n";

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const flux::fuzz::Directory directory;
  static const flux::ClipTokenizer tokenizer = [] {
    directory.write("vocab.json", kVocabulary);
    directory.write("merges.txt", kMerges);
    return flux::ClipTokenizer::load(directory.path());
  }();
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  if (data[0] % 2 == 0) {
    flux::fuzz::expect_row(tokenizer.max_length(), tokenizer.max_id(),
                           [&] { return tokenizer.encode(text); });
    return 0;
  }
  constexpr const char* kFiles[] = {
      "tokenizer.json",          "vocab.json",       "merges.txt", "tokenizer_config.json",
      "special_tokens_map.json", "added_tokens.json"};
  directory.clear();
  directory.write("vocab.json", kVocabulary);
  directory.write("merges.txt", kMerges);
  directory.write(kFiles[data[0] / 2 % std::size(kFiles)], text);
  flux::fuzz::allow_errors([&] {
    const flux::ClipTokenizer loaded = flux::ClipTokenizer::load(directory.path());
    flux::fuzz::expect_row(loaded.max_length(), loaded.max_id(),
                           [&] { return loaded.encode("Ab aab <|EndOfText|> \u00e9!"); });
  });
  return 0;
}

// Fuzzes the T5 tokenizer with prompts and with its files.
//   cmake -S . -B build-fuzz -G Ninja -DFLUX_FUZZ=ON -DCMAKE_CXX_COMPILER=clang++
//   ninja -C build-fuzz tokenizer_t5_fuzz && mkdir -p out/corpus
//   build-fuzz/tests/fuzz/tokenizer_t5_fuzz -max_total_time=60 -max_len=4096 out/corpus
//   tests/golden/tokenizer/t5
// The first byte says what the rest is: a prompt (even), or one of the files (odd).

#include "fuzz/tokenizer_fuzz.h"
#include "tokenizer/charsmap.h"
#include "tokenizer/t5_sentencepiece.h"

namespace {

constexpr const char* kJson =
    R"({"added_tokens":[{"id":0,"content":"<pad>","special":true},{"id":1,"content":"</s>","special":true,"lstrip":true,"rstrip":true}],"normalizer":null,"model":{"type":"Unigram","vocab":[["<pad>",0],["</s>",0],["<unk>",0],["▁",-2.5],["▁a",-1],["a",-3],["aa",-3.5],["é",-4]]}})";

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const flux::fuzz::Directory directory;
  static const flux::T5Tokenizer tokenizer = [] {
    directory.write("tokenizer.json", kJson);
    return flux::T5Tokenizer::load(directory.path());
  }();
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  if (data[0] % 2 == 0) {
    flux::fuzz::expect_row(64, tokenizer.max_id(), [&] { return tokenizer.encode(text, 64); });
    return 0;
  }
  if (data[0] % 8 == 1) {  // a character map of its own, without the JSON around it
    flux::fuzz::allow_errors([&] {
      const flux::Charsmap map(text, "fuzz");
      map.normalize("abc \u00e9\u0301 \uff21\u0301 \u0915\u094d\u0937");
    });
    return 0;
  }
  directory.clear();
  const bool spiece = data[0] % 8 == 3;
  directory.write(spiece ? "spiece.model" : "tokenizer.json", spiece ? text : kJson);
  if (data[0] % 8 == 5) directory.write("tokenizer.json", text);
  if (data[0] % 8 == 7) directory.write("tokenizer_config.json", text);
  flux::fuzz::allow_errors([&] {
    const flux::T5Tokenizer loaded = flux::T5Tokenizer::load(directory.path());
    flux::fuzz::expect_row(32, loaded.max_id(),
                           [&] { return loaded.encode("a aa \u00e9 </s> b <extra_id_0>", 32); });
  });
  return 0;
}

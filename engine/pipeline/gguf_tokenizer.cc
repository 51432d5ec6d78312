#include "pipeline/gguf_tokenizer.h"

#include <cstring>

#include "support/error.h"

namespace flux {
namespace {

constexpr const char* kTokens = "tokenizer.ggml.tokens";
constexpr const char* kScores = "tokenizer.ggml.scores";
constexpr const char* kTypes = "tokenizer.ggml.token_type";
constexpr const char* kCharsmap = "tokenizer.ggml.precompiled_charsmap";
constexpr size_t kMaxTokens = 1 << 20;

/// Element `index` of a list of 4-byte values.
template <typename T>
T element(const GgufFile::Bytes& list, size_t index) {
  T value;
  std::memcpy(&value, list.data.data() + index * sizeof(T), sizeof(T));
  return value;
}

/// A list of `count` 4-byte values.
const GgufFile::Bytes& values(const GgufFile& file, const char* key, size_t count, bool is_float) {
  const GgufFile::Bytes* list = file.list(key);
  const char* kind = is_float ? "float" : "integer";
  check(list != nullptr && list->width == 4 && list->is_float == is_float,
        ErrorCode::kInvalidArgument,
        "{}: metadata key '{}' is no list of {}s of 4 bytes; convert the model again, or give the "
        "directory of a tokenizer with --tokenizers",
        file.path(), key, kind);
  check(list->data.size() == 4 * count, ErrorCode::kInvalidArgument,
        "{}: metadata key '{}' has {} numbers, expected one for each of {} tokens; convert the "
        "model again, or give the directory of a tokenizer with --tokenizers",
        file.path(), key, list->data.size() / 4, count);
  return *list;
}

}  // namespace

bool has_t5_tokenizer(const GgufFile& file) {
  return file.text("tokenizer.ggml.model") == "t5" && file.texts(kTokens) != nullptr;
}

SentencePieceModel sentencepiece_of(const GgufFile& file) {
  using Kind = SentencePieceModel::Kind;
  check(has_t5_tokenizer(file), ErrorCode::kNotFound,
        "{}: holds no tokenizer of a T5; give the directory of one with --tokenizers", file.path());
  const std::vector<std::string_view>& tokens = *file.texts(kTokens);
  check(!tokens.empty() && tokens.size() <= kMaxTokens, ErrorCode::kInvalidArgument,
        "{}: its tokenizer has {} tokens: 1 to {} are expected", file.path(), tokens.size(),
        kMaxTokens);
  const GgufFile::Bytes& scores = values(file, kScores, tokens.size(), true);
  const GgufFile::Bytes& types = values(file, kTypes, tokens.size(), false);
  SentencePieceModel model;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto type = element<int32_t>(types, i);
    check(type >= static_cast<int32_t>(Kind::kNormal) && type <= static_cast<int32_t>(Kind::kByte),
          ErrorCode::kInvalidArgument,
          "{}: token {} is of type {}, 1 to 6 are expected; convert the model again, or give the "
          "directory of a tokenizer with --tokenizers",
          file.path(), i, type);
    model.pieces.push_back(
        {std::string(tokens[i]), element<float>(scores, i), static_cast<Kind>(type)});
  }
  // The table of embeddings has more rows than the model has pieces: those are filled up.
  while (!model.pieces.empty() && model.pieces.back().kind == Kind::kUnused &&
         model.pieces.back().text.starts_with("[PAD")) {
    model.pieces.pop_back();
  }
  if (const GgufFile::Bytes* charsmap = file.list(kCharsmap)) {
    check(charsmap->width == 1, ErrorCode::kInvalidArgument,
          "{}: metadata key '{}' is no list of bytes; download it again", file.path(), kCharsmap);
    model.precompiled_charsmap.assign(charsmap->data.begin(), charsmap->data.end());
  }
  return model;
}

}  // namespace flux

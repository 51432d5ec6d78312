#include "tokenizer/t5_sentencepiece.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "support/base64.h"
#include "support/error.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/charsmap.h"
#include "tokenizer/sentencepiece_model.h"
#include "tokenizer/tokenizer_config.h"
#include "tokenizer/tokenizer_files.h"
#include "tokenizer/unicode.h"
#include "tokenizer/unigram_model.h"

namespace flux {
namespace {

namespace fs = std::filesystem;

constexpr int kLargestMaxLength = 65536;
constexpr int32_t kUnknownId = 2;  // fixed in T5Tokenizer, whatever the file says
constexpr std::string_view kSpaceMark =
    "\xe2\x96\x81";  // U+2581 stands for the space before a word

// Content of a vocabulary file, of either kind.
struct Vocabulary {
  UnigramModel::Pieces pieces;
  Charsmap charsmap;
  std::vector<TokenValue> extra;  // further special tokens, unless the configuration names them
  std::string source;
};

std::string extra_id(int i) { return "<extra_id_" + std::to_string(i) + ">"; }

// Appends <extra_id_0>, ... to `tokens`, unless some are among them.
std::vector<TokenValue> with_extra_ids(std::vector<TokenValue> tokens, int count) {
  const bool present = std::any_of(tokens.begin(), tokens.end(), [](const TokenValue& value) {
    return value.token.content.find("<extra_id_") != std::string::npos;
  });
  for (int i = 0; !present && i < count; ++i) tokens.push_back(TokenValue::of(extra_id(i)));
  return tokens;
}

// Returns the first Precompiled normaliser of tokenizer.json; T5Tokenizer ignores all others.
Charsmap charsmap_of(const nlohmann::json& root, const std::string& file) {
  const auto it = root.find("normalizer");
  if (it == root.end() || !it->is_object()) return {};
  nlohmann::json list = nlohmann::json::array({*it});
  if (it->value("type", nlohmann::json()) == "Sequence" && it->contains("normalizers")) {
    list = it->at("normalizers");
  }
  for (const nlohmann::json& item : list) {
    if (!item.is_object() || item.value("type", nlohmann::json()) != "Precompiled") continue;
    const nlohmann::json map = item.value("precompiled_charsmap", nlohmann::json());
    check(map.is_string(), ErrorCode::kInvalidArgument,
          "{}: precompiled_charsmap is a JSON {}, not a text; copy the file from the checkpoint "
          "again",
          file, map.type_name());
    return Charsmap(
        decode_base64(map.get_ref<const std::string&>(), file + ": precompiled_charsmap"), file);
  }
  return {};
}

Vocabulary from_json(TokenizerJson& json, const TokenizerConfig& config, const std::string& file) {
  check(json.has_vocabulary && json.pieces.empty() && !json.scored_pieces.empty(),
        ErrorCode::kInvalidArgument,
        "{}: model.vocab is not a list of [piece, score], as a T5 tokenizer has it; is it the "
        "tokenizer of another model?",
        file);
  Vocabulary out;
  out.charsmap = charsmap_of(json.rest, file);
  out.pieces = std::move(json.scored_pieces);
  out.extra = with_extra_ids(config.additional_special.value_or(std::vector<TokenValue>{}),
                             config.extra_ids);
  out.source = file;
  return out;
}

Vocabulary from_sentencepiece(SentencePieceModel model, const std::string& source,
                              const TokenizerConfig& config) {
  using Kind = SentencePieceModel::Kind;
  Vocabulary out;
  out.source = source;
  if (!model.precompiled_charsmap.empty()) {
    out.charsmap = Charsmap(model.precompiled_charsmap, out.source);
  }
  std::vector<TokenValue> special;
  for (SentencePieceModel::Piece& piece : model.pieces) {
    if (piece.kind == Kind::kControl || piece.kind == Kind::kUserDefined) {
      special.push_back({{.content = piece.text, .special = piece.kind == Kind::kControl}, false});
    }
    out.pieces.emplace_back(std::move(piece.text), static_cast<double>(piece.score));
  }
  for (int i = config.extra_ids - 1; i >= 0; --i) out.pieces.emplace_back(extra_id(i), 0.0);
  out.extra = with_extra_ids(std::move(special), config.extra_ids);
  return out;
}

void set_defaults(TokenizerConfig& config) {
  config.set_default("eos_token", "</s>");
  config.set_default("unk_token", "<unk>");
  config.set_default("pad_token", "<pad>");
}

// Splits normalised text at white space and before each U+2581; every word starts with one.
template <typename Word>
void for_each_word(std::string_view text, const Word& word) {
  std::string current;
  const auto flush = [&] {
    if (!current.empty()) word(current);
    current.clear();
  };
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const char32_t c = unicode::next(text, at);
    const std::string_view character = text.substr(start, at - start);
    if (unicode::is_space(c)) {
      flush();
      continue;
    }
    if (character == kSpaceMark) flush();
    if (current.empty() && character != kSpaceMark) current = kSpaceMark;
    current.append(character);
  }
  flush();
}

}  // namespace

struct T5Tokenizer::State {
  /// `settings` names the place of `config` in messages.
  static std::shared_ptr<const State> make(Vocabulary vocabulary, const TokenizerConfig& config,
                                           const std::string& settings);

  UnigramModel model;
  Charsmap charsmap;
  AddedTokens added;
  SequenceFormat format;
  int32_t max_id;
};

T5Tokenizer::T5Tokenizer(std::shared_ptr<const State> state) : state_(std::move(state)) {}

T5Tokenizer T5Tokenizer::load(const fs::path& directory) {
  const fs::path json_path = directory / "tokenizer.json";
  const fs::path spiece_path = directory / "spiece.model";
  const bool has_json = fs::exists(json_path);
  check(has_json || fs::exists(spiece_path), ErrorCode::kNotFound,
        "{}: neither tokenizer.json nor spiece.model is there; copy the checkpoint's tokenizer_2 "
        "folder again",
        directory);
  TokenizerJson json;
  if (has_json) json = read_tokenizer_json(json_path);
  TokenizerConfig config = TokenizerConfig::read(directory, has_json ? &json.rest : nullptr);
  set_defaults(config);
  return T5Tokenizer(State::make(
      has_json
          ? from_json(json, config, json_path.string())
          : from_sentencepiece(read_sentencepiece_model(spiece_path), spiece_path.string(), config),
      config, (directory / "tokenizer_config.json").string()));
}

T5Tokenizer T5Tokenizer::from_model(SentencePieceModel model, const std::string& source) {
  TokenizerConfig config;
  set_defaults(config);
  Vocabulary vocabulary = from_sentencepiece(std::move(model), source, config);
  return T5Tokenizer(State::make(std::move(vocabulary), config, source));
}

std::shared_ptr<const T5Tokenizer::State> T5Tokenizer::State::make(Vocabulary vocabulary,
                                                                   const TokenizerConfig& config,
                                                                   const std::string& settings) {
  UnigramModel model(vocabulary.pieces, kUnknownId, vocabulary.source);
  const Charsmap& charsmap = vocabulary.charsmap;
  AddedTokens added(
      config.added_tokens(config.extra_special.value_or(vocabulary.extra)),
      [&model](std::string_view piece) { return model.find(piece); }, model.size(),
      [&charsmap](std::string_view text) { return charsmap.normalize(text); },
      config.split_special_tokens);

  const auto id_of = [&](const char* name) {
    const std::optional<std::string> content = config.named(name);
    check(content.has_value(), ErrorCode::kInvalidArgument,
          "{}: {} is null; the T5 tokenizer needs one: repair the file", settings, name);
    const int32_t id = added.find(*content);
    return id >= 0 ? id : model.find(*content);
  };
  SequenceFormat format;
  format.suffix = {id_of("eos_token")};
  format.pad = id_of("pad_token");
  format.truncation_side = config.truncation_side;
  format.padding_side = config.padding_side;
  const int32_t max_id = std::max(model.size() - 1, added.max_id());
  return std::make_shared<const State>(State{std::move(model), std::move(vocabulary.charsmap),
                                             std::move(added), std::move(format), max_id});
}

TokenIds T5Tokenizer::encode(std::string_view text, int max_length) const {
  check(max_length >= 1 && max_length <= kLargestMaxLength, ErrorCode::kInvalidArgument,
        "max_sequence_length is {}; allowed are 1 to {}", max_length, kLargestMaxLength);
  check_prompt(text);
  const auto normalize = [this](std::string_view part) { return state_->charsmap.normalize(part); };
  const auto encode_text = [this](std::string_view part, std::vector<int32_t>& ids) {
    for_each_word(part, [&](std::string_view word) { state_->model.encode_word(word, ids); });
  };
  std::vector<int32_t> ids;
  state_->added.encode(text, normalize, encode_text, ids);
  return finish_sequence(state_->format, std::move(ids), max_length);
}

int32_t T5Tokenizer::max_id() const { return state_->max_id; }

}  // namespace flux

#include "tokenizer/clip_bpe.h"

#include <algorithm>
#include <array>
#include <utility>

#include "support/error.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe_model.h"
#include "tokenizer/tokenizer_config.h"
#include "tokenizer/tokenizer_files.h"
#include "tokenizer/unicode.h"

namespace flux {
namespace {

namespace fs = std::filesystem;

constexpr int kDefaultMaxLength = 77;
constexpr int64_t kLargestMaxLength = 65536;

// Normalises a text: runs of white space become one space, then composition and lower case.
std::u32string normalized(std::string_view text) {
  const std::u32string composed = unicode::nfc(unicode::decode(text));
  std::u32string out;
  out.reserve(composed.size());
  bool in_space = false;
  for (const char32_t c : composed) {
    const bool space = unicode::is_space(c);
    if (!space) out.push_back(c);
    if (space && !in_space) out.push_back(U' ');
    in_space = space;
  }
  return unicode::lowercase(out);
}

// The words that CLIP's pattern finds in normalised text:
//   <|startoftext|> | <|endoftext|> | 's | 't | 're | 've | 'm | 'll | 'd | letters | one number |
//   what is neither white space, letter nor number
// The byte-level step then splits again with GPT-2's pattern, which takes only the first two apart.
template <typename Word>
void for_each_word(std::u32string_view text, const Word& word) {
  constexpr std::array<std::u32string_view, 2> kMarks = {U"<|startoftext|>", U"<|endoftext|>"};
  constexpr std::array<std::u32string_view, 7> kContractions = {U"'s", U"'t",  U"'re", U"'ve",
                                                                U"'m", U"'ll", U"'d"};
  const auto is_other = [](char32_t c) {
    return !unicode::is_space(c) && !unicode::is_letter(c) && !unicode::is_number(c);
  };
  const auto begin_of = [](std::u32string_view rest, const auto& list) {
    return std::find_if(list.begin(), list.end(),
                        [rest](std::u32string_view item) { return rest.starts_with(item); });
  };
  for (size_t at = 0; at < text.size();) {
    const std::u32string_view rest = text.substr(at);
    const char32_t c = rest.front();
    size_t length = 1;
    const auto run = [&](const auto& belongs) {
      while (length < rest.size() && belongs(rest[length])) ++length;
    };
    const auto mark = c == U'<' ? begin_of(rest, kMarks) : kMarks.end();
    const auto contraction = c == U'\'' ? begin_of(rest, kContractions) : kContractions.end();
    if (mark != kMarks.end()) {
      length = mark->size();
      word(rest.substr(0, 2));
      word(rest.substr(2, length - 4));
      word(rest.substr(length - 2, 2));
    } else if (contraction != kContractions.end()) {
      length = contraction->size();
      word(rest.substr(0, length));
    } else if (unicode::is_letter(c)) {
      run(unicode::is_letter);
      word(rest.substr(0, length));
    } else if (unicode::is_number(c)) {
      word(rest.substr(0, 1));
    } else if (!unicode::is_space(c)) {
      run(is_other);
      word(rest.substr(0, length));
    }
    at += length;
  }
}

BpeModel load_model(const fs::path& directory, TokenizerJson* json, const std::string& unknown) {
  if (json != nullptr) {
    const std::string file = (directory / "tokenizer.json").string();
    check(
        json->has_vocabulary && json->scored_pieces.empty() && !json->pieces.empty(),
        ErrorCode::kInvalidArgument,
        "{}: model.vocab is not an object from piece to id, as a CLIP tokenizer has it; is it the "
        "tokenizer of another model?",
        file);
    return BpeModel(std::move(json->pieces), json->merges, unknown, {file, file});
  }
  const fs::path vocab = directory / "vocab.json";
  const fs::path merges = directory / "merges.txt";
  check(fs::exists(vocab) && fs::exists(merges), ErrorCode::kNotFound,
        "{}: neither tokenizer.json nor both vocab.json and merges.txt are there; copy the "
        "checkpoint's tokenizer folder again",
        directory);
  return BpeModel(read_vocab_json(vocab), read_merges(merges), unknown,
                  {vocab.string(), merges.string()});
}

}  // namespace

struct ClipTokenizer::State {
  BpeModel model;
  AddedTokens added;
  SequenceFormat format;
  int max_length;
  int32_t max_id;
};

ClipTokenizer::ClipTokenizer(std::shared_ptr<const State> state) : state_(std::move(state)) {}

ClipTokenizer ClipTokenizer::load(const fs::path& directory) {
  const fs::path json_path = directory / "tokenizer.json";
  const bool has_json = fs::exists(json_path);
  TokenizerJson json;
  if (has_json) json = read_tokenizer_json(json_path);
  TokenizerConfig config = TokenizerConfig::read(directory, has_json ? &json.rest : nullptr);
  config.set_default("bos_token", "<|startoftext|>");
  for (const char* name : {"eos_token", "unk_token", "pad_token"}) {
    config.set_default(name, "<|endoftext|>");
  }
  const int64_t max_length = config.model_max_length.value_or(kDefaultMaxLength);
  check(max_length >= 2 && max_length <= kLargestMaxLength, ErrorCode::kInvalidArgument,
        "{}: model_max_length is {}; allowed are 2 to {} (CLIP has 77): repair the file",
        directory / "tokenizer_config.json", max_length, kLargestMaxLength);

  BpeModel model =
      load_model(directory, has_json ? &json : nullptr, config.named("unk_token").value_or(""));
  const std::vector<TokenValue> extra =
      config.extra_special.value_or(config.additional_special.value_or(std::vector<TokenValue>{}));
  AddedTokens added(
      config.added_tokens(extra), [&model](std::string_view piece) { return model.find(piece); },
      model.size(), [](std::string_view text) { return unicode::encode(normalized(text)); },
      config.split_special_tokens);

  const auto id_of = [&](const char* name) {
    const std::optional<std::string> content = config.named(name);
    check(content.has_value(), ErrorCode::kInvalidArgument,
          "{}: {} is null; the CLIP tokenizer needs one: repair the file",
          directory / "tokenizer_config.json", name);
    const int32_t id = added.find(*content);
    return id >= 0 ? id : model.find(*content);
  };
  SequenceFormat format;
  format.prefix = {id_of("bos_token")};
  format.suffix = {id_of("eos_token")};
  format.pad = id_of("pad_token");
  format.truncation_side = config.truncation_side;
  format.padding_side = config.padding_side;
  const int32_t max_id = std::max(model.max_id(), added.max_id());
  return ClipTokenizer(
      std::make_shared<const State>(State{std::move(model), std::move(added), std::move(format),
                                          static_cast<int>(max_length), max_id}));
}

TokenIds ClipTokenizer::encode(std::string_view text) const {
  check_prompt(text);
  const auto encode_text = [this](std::string_view part, std::vector<int32_t>& ids) {
    for_each_word(unicode::decode(part), [&](std::u32string_view word) {
      state_->model.encode_word(unicode::encode(word), ids);
    });
  };
  const auto normalize = [](std::string_view part) { return unicode::encode(normalized(part)); };
  std::vector<int32_t> ids;
  state_->added.encode(text, normalize, encode_text, ids);
  return finish_sequence(state_->format, std::move(ids), state_->max_length);
}

int ClipTokenizer::max_length() const { return state_->max_length; }

int32_t ClipTokenizer::max_id() const { return state_->max_id; }

}  // namespace flux

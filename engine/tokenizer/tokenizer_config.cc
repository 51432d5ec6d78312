#include "tokenizer/tokenizer_config.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <set>

#include "support/error.h"
#include "tokenizer/tokenizer_files.h"

namespace flux {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

// The named tokens, in the order in which transformers adds them.
constexpr std::array<const char*, 7> kNames = {"bos_token", "eos_token", "unk_token", "sep_token",
                                               "pad_token", "cls_token", "mask_token"};
constexpr int kMaxExtraIds = 100000;
constexpr size_t kMaxAddedTokens = 1 << 14;

bool is_standard(const std::string& name) {
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

// A key in a file, named in errors.
struct FileKey {
  std::string file;
  std::string key;
};

[[noreturn]] void wrong_type(const FileKey& place, const json& value, const char* expected) {
  fail(ErrorCode::kInvalidArgument, "{}: {} is a JSON {}, expected {}; repair the file", place.file,
       place.key, value.type_name(), expected);
}

bool flag(const FileKey& place, const json& object, const char* name, bool fallback) {
  const auto it = object.find(name);
  if (it == object.end() || it->is_null()) return fallback;
  if (!it->is_boolean()) wrong_type({place.file, place.key + "." + name}, *it, "true or false");
  return it->get<bool>();
}

TokenValue token_of(const FileKey& place, const json& value, bool always_special) {
  if (!value.is_object()) wrong_type(place, value, "an object with content");
  const auto content = value.find("content");
  if (content == value.end() || !content->is_string()) {
    wrong_type({place.file, place.key + ".content"},
               content == value.end() ? json(nullptr) : *content, "a text");
  }
  AddedToken token;
  token.content = content->get<std::string>();
  token.special = always_special || flag(place, value, "special", false);
  const auto normalized = value.find("normalized");
  const bool by_default = normalized == value.end() || normalized->is_null();
  token.normalized = flag(place, value, "normalized", !token.special);
  token.lstrip = flag(place, value, "lstrip", false);
  token.rstrip = flag(place, value, "rstrip", false);
  token.single_word = flag(place, value, "single_word", false);
  return {token, false, by_default};
}

TokenValue value_of(const FileKey& place, const json& value, bool always_special) {
  if (value.is_string()) return TokenValue::of(value.get<std::string>());
  return token_of(place, value, always_special);
}

std::vector<TokenValue> list_of(const FileKey& place, const json& value, bool always_special) {
  std::vector<TokenValue> list;
  if (value.is_null()) return list;
  if (!value.is_array()) wrong_type(place, value, "a list");
  check(value.size() <= kMaxAddedTokens, ErrorCode::kInvalidArgument,
        "{}: {} has {} entries, at most {} are supported; repair the file", place.file, place.key,
        value.size(), kMaxAddedTokens);
  for (const json& item : value) list.push_back(value_of(place, item, always_special));
  return list;
}

// Sets a key of a list; a key that is there already keeps its position.
void put(std::vector<std::pair<std::string, TokenValue>>& list, const std::string& name,
         TokenValue value) {
  check(list.size() < kMaxAddedTokens, ErrorCode::kInvalidArgument,
        "more than {} special tokens (\"{}\" is one); repair tokenizer_config.json",
        kMaxAddedTokens, name);
  const auto it =
      std::find_if(list.begin(), list.end(), [&](const auto& item) { return item.first == name; });
  if (it != list.end()) {
    it->second = std::move(value);
  } else {
    list.emplace_back(name, std::move(value));
  }
}

bool is_empty(const json& config, const char* name) {
  const auto it = config.find(name);
  return it == config.end() || it->is_null() || it->empty();
}

int64_t id_of(const FileKey& place, const json& value) {
  if (!value.is_number_integer()) wrong_type(place, value, "an id");
  const bool fits = value.is_number_unsigned()
                        ? value.get<uint64_t>() <= static_cast<uint64_t>(kMaxTokenId)
                        : value.get<int64_t>() >= 0;
  check(fits, ErrorCode::kInvalidArgument, "{}: {} is {}; allowed are 0 to {}; repair the file",
        place.file, place.key, value.dump(), kMaxTokenId);
  return value.get<int64_t>();
}

Side side_of(const FileKey& place, const json& value) {
  std::string name = value.is_string() ? value.get<std::string>() : "";
  std::transform(name.begin(), name.end(), name.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  check(name == "left" || name == "right", ErrorCode::kInvalidArgument,
        "{}: {} is {}; allowed are \"left\" and \"right\"; repair the file", place.file, place.key,
        value.dump(-1, ' ', false, json::error_handler_t::replace));
  return name == "left" ? Side::kLeft : Side::kRight;
}

// Reads a side from `truncation` or `padding` of tokenizer.json.
void read_direction(const std::string& file, const json& root, const char* section, Side& side) {
  const auto it = root.find(section);
  if (it == root.end() || !it->is_object()) return;
  const auto direction = it->find("direction");
  if (direction != it->end())
    side = side_of({file, std::string(section) + ".direction"}, *direction);
}

}  // namespace

TokenizerConfig TokenizerConfig::read(const fs::path& directory, const json* tokenizer_json) {
  TokenizerConfig out;
  const fs::path config_path = directory / "tokenizer_config.json";
  const std::string tokenizer_path = (directory / "tokenizer.json").string();
  if (tokenizer_json != nullptr) {
    read_direction(tokenizer_path, *tokenizer_json, "truncation", out.truncation_side);
    read_direction(tokenizer_path, *tokenizer_json, "padding", out.padding_side);
  }
  const json config = read_optional_json(config_path);
  out.read_config(config_path, config);
  if (config.contains("added_tokens_decoder")) {
    const json& decoder = config["added_tokens_decoder"];
    const FileKey place{config_path.string(), "added_tokens_decoder"};
    if (!decoder.is_object()) wrong_type(place, decoder, "an object from id to token");
    for (const auto& [key, value] : decoder.items()) {
      int64_t id = -1;
      const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
      check(error == std::errc() && end == key.data() + key.size() && id >= 0 && id <= kMaxTokenId,
            ErrorCode::kInvalidArgument,
            "{}: added_tokens_decoder has the id \"{}\"; allowed are 0 to {}", place.file, key,
            kMaxTokenId);
      out.add_to_decoder(id, token_of({place.file, place.key + "." + key}, value, false));
    }
  } else {
    out.read_special_tokens_map(directory / "special_tokens_map.json");
    out.read_added_tokens(directory / "added_tokens.json");
    const json none = json::array();
    const bool has_list = tokenizer_json != nullptr && tokenizer_json->contains("added_tokens");
    const json& list = has_list ? tokenizer_json->at("added_tokens") : none;
    const FileKey place{tokenizer_path, "added_tokens"};
    if (!list.is_array()) wrong_type(place, list, "a list");
    for (const json& value : list) {
      TokenValue token = token_of(place, value, false);
      const json id = value.value("id", json());
      out.add_to_decoder(id_of({place.file, "added_tokens.id"}, id), std::move(token));
    }
  }
  check(out.decoder_.size() <= kMaxAddedTokens, ErrorCode::kInvalidArgument,
        "{}: {} added tokens, at most {} are supported", directory, out.decoder_.size(),
        kMaxAddedTokens);
  for (auto& [name, value] : out.named_) {
    if (!value) continue;
    const auto it = out.by_content_.find(value->token.content);
    if (it != out.by_content_.end()) value = it->second;
  }
  return out;
}

void TokenizerConfig::read_config(const fs::path& path, const json& config) {
  const std::string file = path.string();
  for (const auto& [key, value] : config.items()) {
    if (!key.ends_with("_token")) continue;
    if (is_standard(key)) {
      named_[key] =
          value.is_null() ? std::nullopt : std::optional(value_of({file, key}, value, false));
    } else if (value.is_string() || (value.is_object() && value.contains("content"))) {
      // Texts come after what is read as an AddedToken, here or in special_tokens_map.json.
      put(value.is_string() ? further_texts_ : further_, key, value_of({file, key}, value, false));
    }
  }
  const auto extra = config.find("extra_special_tokens");
  if (extra != config.end() && extra->is_object()) {
    for (const auto& [key, value] : extra->items()) {
      put(further_texts_, key, value_of({file, "extra_special_tokens." + key}, value, false));
    }
  }
  if (extra != config.end() && !extra->is_object()) {
    extra_special = list_of({file, "extra_special_tokens"}, *extra, false);
  }
  if (config.contains("additional_special_tokens")) {
    auto& target = is_empty(config, "extra_special_tokens") ? extra_special : additional_special;
    target =
        list_of({file, "additional_special_tokens"}, config["additional_special_tokens"], false);
  }
  const FileKey place{file, "the file"};
  split_special_tokens = flag(place, config, "split_special_tokens", false);
  const auto side = [&](const char* name, Side& out) {
    if (!is_empty(config, name)) out = side_of({file, name}, config[name]);
  };
  side("truncation_side", truncation_side);
  side("padding_side", padding_side);
  const char* length_key = config.contains("model_max_length") ? "model_max_length" : "max_len";
  if (!is_empty(config, length_key)) {
    const json& length = config[length_key];
    if (!length.is_number()) wrong_type({file, length_key}, length, "a number");
    // "No limit" is written as 1e30; compared as a double it does not overflow.
    const double limit = static_cast<double>(INT32_MAX);
    model_max_length = static_cast<int64_t>(std::clamp(length.get<double>(), -1.0, limit));
  }
  if (!is_empty(config, "extra_ids")) {
    const json& count = config["extra_ids"];
    const bool fits = count.is_number_unsigned() && count.get<uint64_t>() <= kMaxExtraIds;
    check(fits, ErrorCode::kInvalidArgument, "{}: extra_ids is {}; allowed are 0 to {}", file,
          count.dump(-1, ' ', false, json::error_handler_t::replace), kMaxExtraIds);
    extra_ids = count.get<int>();
  }
}

void TokenizerConfig::read_special_tokens_map(const fs::path& path) {
  const json map = read_optional_json(path);
  const std::string file = path.string();
  for (const auto& [key, value] : map.items()) {
    if (key == "additional_special_tokens") {
      additional_special = list_of({file, key}, value, true);
    } else if (key == "extra_special_tokens" && value.is_array()) {
      std::vector<TokenValue> list = extra_special.value_or(std::vector<TokenValue>{});
      for (TokenValue& token : list_of({file, key}, value, true)) {
        const bool known = std::any_of(list.begin(), list.end(), [&](const TokenValue& other) {
          return other.bare == token.bare && other.token == token.token;
        });
        if (!known) list.push_back(std::move(token));
      }
      extra_special = std::move(list);
    } else if (is_standard(key)) {
      named_[key] =
          value.is_null() ? std::nullopt : std::optional(value_of({file, key}, value, true));
    } else if (key.ends_with("_token") && (value.is_string() || value.is_object())) {
      further_.emplace_back(key, value_of({file, key}, value, true));
    }
  }
}

void TokenizerConfig::read_added_tokens(const fs::path& path) {
  const json tokens = read_optional_json(path);
  if (tokens.empty()) return;
  std::set<std::string> special;
  for (const auto& [name, value] : named_) {
    if (value) special.insert(value->token.content);
  }
  if (extra_special) {
    for (const TokenValue& value : *extra_special) special.insert(value.token.content);
  }
  for (const auto& [content, value] : tokens.items()) {
    const bool is_special = special.contains(content);
    const int64_t id = id_of({path.string(), "\"" + content + "\""}, value);
    check(!decoder_.contains(id), ErrorCode::kInvalidArgument,
          "{}: two tokens have the id {} (one is \"{}\"); repair the file", path, id, content);
    add_to_decoder(
        id, {{.content = content, .normalized = !is_special, .special = is_special}, false, false});
  }
}

void TokenizerConfig::add_to_decoder(int64_t id, TokenValue token) {
  by_content_[token.token.content] = token;
  decoder_[id] = std::move(token);
}

void TokenizerConfig::set_default(const std::string& name, const std::string& content) {
  if (named_.contains(name)) return;
  named_[name] = TokenValue::of(content);
}

std::optional<std::string> TokenizerConfig::named(const std::string& name) const {
  const auto it = named_.find(name);
  if (it == named_.end() || !it->second) return std::nullopt;
  return it->second->token.content;
}

std::vector<AddedToken> TokenizerConfig::added_tokens(const std::vector<TokenValue>& extra) const {
  std::vector<TokenValue> list;
  std::set<std::string> in_decoder;
  for (const auto& [id, token] : decoder_) {
    list.push_back(token);
    in_decoder.insert(token.token.content);
  }
  std::set<std::string> bare;
  std::set<std::string> names;
  // transformers compares a bare text with bare texts only, and a token with tokens: one content
  // may come twice, and then the later properties win.
  const auto add = [&](const TokenValue& value) {
    if (in_decoder.contains(value.token.content)) return;
    if (value.bare ? !bare.insert(value.token.content).second
                   : std::any_of(list.begin(), list.end(), [&](const TokenValue& other) {
                       return !other.bare && other.token == value.token;
                     })) {
      return;
    }
    list.push_back(value);
  };
  const auto add_named = [&](const TokenValue& value) {
    add(value);
    if (!value.token.content.empty()) names.insert(value.token.content);
  };
  for (const char* name : kNames) {
    const auto it = named_.find(name);
    if (it != named_.end() && it->second) add_named(*it->second);
  }
  auto further = further_;
  for (const auto& [name, value] : further_texts_) put(further, name, value);
  for (const auto& [name, value] : further) add_named(value);
  for (const TokenValue& value : extra) add(value);

  std::vector<AddedToken> tokens;
  for (const TokenValue& value : list) {
    tokens.push_back(value.token);
    if (!names.contains(value.token.content)) continue;
    tokens.back().special = true;
    if (value.normalized_by_default) tokens.back().normalized = false;
  }
  return tokens;
}

}  // namespace flux

#include "tokenizer/tokenizer_files.h"

#include <cmath>
#include <fstream>
#include <string_view>

#include "support/error.h"
#include "support/json_outline.h"

namespace flux {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr uintmax_t kMaxFileBytes = 256ull << 20;
constexpr size_t kMaxDepth = 64;

// Reads a tokenizer.json (or, with `root_is_vocabulary`, a vocab.json) as a stream of events, so
// that its hundred thousand strings never become a tree of JSON values.
class VocabularyReader : public nlohmann::json_sax<json> {
 public:
  VocabularyReader(TokenizerJson& out, bool root_is_vocabulary)
      : out_(out), root_is_vocabulary_(root_is_vocabulary) {}

  const std::string& problem() const { return problem_; }

  bool null() override { return scalar(nullptr); }
  bool boolean(bool value) override { return scalar(value); }
  bool number_integer(number_integer_t value) override { return integer(value); }
  bool number_unsigned(number_unsigned_t value) override {
    return integer(value > static_cast<number_unsigned_t>(INT64_MAX) ? INT64_MAX
                                                                     : static_cast<int64_t>(value));
  }
  bool number_float(number_float_t value, const string_t&) override {
    return list_ == List::kNone ? scalar(value) : number(value);
  }
  bool string(string_t& value) override {
    if (list_ == List::kNone) return scalar(std::move(value));
    if (list_ == List::kScored && in_item_ && parts_.empty()) {
      parts_.push_back(std::move(value));
      return true;
    }
    if (list_ == List::kMerges && in_item_ && parts_.size() < 2) {
      parts_.push_back(std::move(value));
      return true;
    }
    if (list_ == List::kMerges && !in_item_) return merge_line(value);
    return refuse("a string stands where none is allowed in the vocabulary");
  }
  bool binary(binary_t&) override { return refuse("binary data"); }

  bool start_object(size_t) override {
    if (++depth_ > kMaxDepth) return refuse(fmt::format("more than {} nested levels", kMaxDepth));
    if (list_ != List::kNone) return refuse("an object inside the vocabulary");
    if (at_vocabulary()) return start_list(List::kPieces);
    return start_container(json::object());
  }
  bool start_array(size_t) override {
    if (++depth_ > kMaxDepth) return refuse(fmt::format("more than {} nested levels", kMaxDepth));
    if (list_ == List::kNone) {
      if (at_vocabulary()) return start_list(List::kScored);
      if (at_merges()) return start_list(List::kMerges);
      return start_container(json::array());
    }
    if (list_ == List::kPieces || in_item_) return refuse("a list inside a vocabulary entry");
    in_item_ = true;
    parts_.clear();
    has_score_ = false;
    return true;
  }
  bool key(string_t& value) override {
    if (list_ == List::kPieces) {
      piece_ = std::move(value);
      return true;
    }
    if (stack_.size() == 1) section_ = value;
    if (stack_.size() <= 2) field_ = value;
    key_ = std::move(value);
    return true;
  }
  bool end_object() override {
    --depth_;
    if (list_ == List::kPieces) {
      list_ = List::kNone;
    } else {
      stack_.pop_back();
    }
    return true;
  }
  bool end_array() override {
    --depth_;
    if (list_ == List::kNone) {
      stack_.pop_back();
      return true;
    }
    if (!in_item_) {
      list_ = List::kNone;
      return true;
    }
    in_item_ = false;
    return end_item();
  }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    problem_ = fmt::format("not valid JSON at byte {}", position);
    return false;
  }

 private:
  enum class List { kNone, kPieces, kScored, kMerges };

  bool refuse(std::string problem) {
    problem_ = std::move(problem);
    return false;
  }
  bool at_vocabulary() const {
    if (root_is_vocabulary_) return depth_ == 1;
    return depth_ == 3 && section_ == "model" && field_ == "vocab" && stack_.back()->is_object();
  }
  bool at_merges() const {
    return !root_is_vocabulary_ && depth_ == 3 && section_ == "model" && field_ == "merges" &&
           stack_.back()->is_object();
  }
  bool start_list(List list) {
    if (list == List::kMerges ? !out_.merges.empty() : out_.has_vocabulary) {
      return refuse("the vocabulary or the merges are there twice");
    }
    out_.has_vocabulary = out_.has_vocabulary || list != List::kMerges;
    list_ = list;
    in_item_ = false;
    return true;
  }
  bool start_container(json value) {
    json* place = put(std::move(value));
    if (place == nullptr) return false;
    stack_.push_back(place);
    return true;
  }
  json* put(json value) {
    if (stack_.empty()) {
      if (!value.is_object()) {
        problem_ = "the file must hold a JSON object";
        return nullptr;
      }
      out_.rest = std::move(value);
      return &out_.rest;
    }
    json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    json& place = parent[key_];
    place = std::move(value);
    return &place;
  }
  bool scalar(json value) {
    if (list_ != List::kNone) return refuse("a value of the wrong type in the vocabulary");
    return put(std::move(value)) != nullptr;
  }
  bool integer(int64_t value) {
    if (list_ == List::kNone) return scalar(value);
    if (list_ != List::kPieces) return number(static_cast<double>(value));
    if (value < 0 || value > kMaxTokenId) {
      return refuse(fmt::format("piece \"{}\" has the id {}; allowed are 0 to {}", piece_, value,
                                kMaxTokenId));
    }
    out_.pieces.emplace_back(std::move(piece_), static_cast<int32_t>(value));
    return true;
  }
  bool number(double value) {
    if (list_ != List::kScored || !in_item_ || parts_.size() != 1 || has_score_) {
      return refuse("a number of the wrong type or place in the vocabulary");
    }
    score_ = value;
    has_score_ = true;
    return true;
  }
  bool end_item() {
    if (list_ == List::kScored) {
      if (parts_.size() != 1 || !has_score_) return refuse("a piece is not [text, score]");
      out_.scored_pieces.emplace_back(std::move(parts_[0]), score_);
    } else {
      if (parts_.size() != 2) return refuse("a merge is not a pair of texts");
      out_.merges.emplace_back(std::move(parts_[0]), std::move(parts_[1]));
    }
    return true;
  }
  bool merge_line(const std::string& line) {
    const size_t space = line.find(' ');
    if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos) {
      return refuse(fmt::format("merge \"{}\" is not two pieces divided by one space", line));
    }
    out_.merges.emplace_back(line.substr(0, space), line.substr(space + 1));
    return true;
  }

  TokenizerJson& out_;
  const bool root_is_vocabulary_;
  std::vector<json*> stack_;  // open containers of out_.rest
  size_t depth_ = 0;          // open containers, those of the vocabulary included
  std::string section_;       // latest key of the root object
  std::string field_;         // latest key of the root object or of one directly in it
  std::string key_;           // latest key
  List list_ = List::kNone;
  bool in_item_ = false;
  std::string piece_;
  std::vector<std::string> parts_;
  double score_ = 0;
  bool has_score_ = false;
  std::string problem_;
};

TokenizerJson read_stream(const fs::path& path, bool root_is_vocabulary) {
  const std::string text = read_tokenizer_file(path);
  TokenizerJson out;
  VocabularyReader reader(out, root_is_vocabulary);
  const bool read = json::sax_parse(text, &reader);
  check(read, ErrorCode::kInvalidArgument,
        "{}: {}; the file is damaged or of another format: copy it from the checkpoint again", path,
        reader.problem());
  return out;
}

}  // namespace

std::string read_tokenizer_file(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  check(fs::exists(status), ErrorCode::kNotFound,
        "{}: no such file; the checkpoint is incomplete: copy its tokenizer folders again", path);
  check(fs::is_regular_file(status), ErrorCode::kInvalidArgument,
        "{}: not a regular file; put the checkpoint's tokenizer file there", path);
  const uintmax_t size = fs::file_size(path, error);
  check(!error && size <= kMaxFileBytes, ErrorCode::kInvalidArgument,
        "{}: {} bytes; a tokenizer file has at most {}: copy it from the checkpoint again", path,
        size, kMaxFileBytes);
  std::ifstream file(path, std::ios::binary);
  std::string bytes(static_cast<size_t>(size), '\0');
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  check(file.good(), ErrorCode::kInvalidArgument,
        "{}: cannot be read to its end ({} of {} bytes); check its permissions and the disk", path,
        file.gcount(), size);
  return bytes;
}

json read_optional_json(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) return json::object();
  const std::string text = read_tokenizer_file(path);
  constexpr int kDeepest = static_cast<int>(kMaxDepth);
  check(outline_of(text, kDeepest).depth <= kDeepest, ErrorCode::kInvalidArgument,
        "{}: more than {} nested levels; copy the file from the checkpoint again", path, kMaxDepth);
  json value;
  try {
    value = json::parse(text);
  } catch (const json::parse_error& problem) {
    fail(ErrorCode::kInvalidArgument,
         "{}: not valid JSON at byte {}; the file is damaged: copy it from the checkpoint again",
         path, problem.byte);
  }
  check(value.is_object(), ErrorCode::kInvalidArgument,
        "{}: holds a JSON {}, not an object; copy it from the checkpoint again", path,
        value.type_name());
  return value;
}

TokenizerJson read_tokenizer_json(const fs::path& path) { return read_stream(path, false); }

std::vector<std::pair<std::string, int32_t>> read_vocab_json(const fs::path& path) {
  TokenizerJson out = read_stream(path, true);
  check(out.has_vocabulary && out.scored_pieces.empty(), ErrorCode::kInvalidArgument,
        "{}: not an object from piece to id; copy it from the checkpoint again", path);
  return std::move(out.pieces);
}

std::vector<std::pair<std::string, std::string>> read_merges(const fs::path& path) {
  const std::string text = read_tokenizer_file(path);
  std::vector<std::pair<std::string, std::string>> merges;
  size_t number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line(text.data() + at, end - at);
    at = end + 1;
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.starts_with("#version")) continue;
    const size_t space = line.find(' ');
    check(space != std::string_view::npos && line.find(' ', space + 1) == std::string_view::npos,
          ErrorCode::kInvalidArgument,
          "{}: line {} is not two pieces divided by one space; copy the file from the checkpoint "
          "again",
          path, number);
    merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }
  return merges;
}

}  // namespace flux

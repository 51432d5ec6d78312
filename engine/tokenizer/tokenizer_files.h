#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace flux {

/// Ids a vocabulary may use: 0 to kMaxTokenId.
inline constexpr int64_t kMaxTokenId = (1 << 24) - 1;

/// The parts of a tokenizer.json. The two long lists are read as a stream, the rest as JSON.
struct TokenizerJson {
  nlohmann::json rest;  // everything but model.vocab and model.merges
  bool has_vocabulary = false;
  std::vector<std::pair<std::string, int32_t>> pieces;        // model.vocab of a BPE model
  std::vector<std::pair<std::string, double>> scored_pieces;  // model.vocab of a Unigram model
  std::vector<std::pair<std::string, std::string>> merges;    // model.merges, either spelling
};

// All readers refuse what is no regular file or larger than 256 MiB, and throw kInvalidArgument
// naming the file and the place when the content is damaged.

/// Whole file as bytes. Error kNotFound when it is missing.
std::string read_tokenizer_file(const std::filesystem::path& path);

/// A JSON object; an empty one when the file does not exist.
nlohmann::json read_optional_json(const std::filesystem::path& path);

/// tokenizer.json.
TokenizerJson read_tokenizer_json(const std::filesystem::path& path);

/// vocab.json: an object from piece to id.
std::vector<std::pair<std::string, int32_t>> read_vocab_json(const std::filesystem::path& path);

/// merges.txt: one pair a line, divided by one space; lines that start with #version are skipped.
std::vector<std::pair<std::string, std::string>> read_merges(const std::filesystem::path& path);

/// Bytes of a base64 text; `what` names it in the error.
std::string decode_base64(std::string_view text, const std::string& what);

}  // namespace flux

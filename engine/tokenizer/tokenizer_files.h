#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace flux {

/// Largest id that a vocabulary may use.
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

/// Reads a whole file as bytes. Throws kNotFound when it is missing.
std::string read_tokenizer_file(const std::filesystem::path& path);

/// Reads a JSON object; it is empty when the file does not exist.
nlohmann::json read_optional_json(const std::filesystem::path& path);

/// Reads tokenizer.json.
TokenizerJson read_tokenizer_json(const std::filesystem::path& path);

/// Reads vocab.json, an object from piece to id.
std::vector<std::pair<std::string, int32_t>> read_vocab_json(const std::filesystem::path& path);

/// Reads merges.txt: one pair in a line, separated by one space; lines that start with #version are
/// skipped.
std::vector<std::pair<std::string, std::string>> read_merges(const std::filesystem::path& path);

}  // namespace flux

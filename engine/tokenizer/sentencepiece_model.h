#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace flux {

/// The parts of a sentencepiece model file that a T5 tokenizer needs (`ModelProto` of
/// sentencepiece_model.proto).
struct SentencePieceModel {
  enum class Kind {
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,
    kUnused = 5,
    kByte = 6
  };
  struct Piece {
    std::string text;
    float score = 0;
    Kind kind = Kind::kNormal;
  };
  std::vector<Piece> pieces;
  std::string precompiled_charsmap;  // empty: none
};

/// Reads spiece.model. Error kNotFound when it is missing, kInvalidArgument naming file and byte
/// when it is damaged.
SentencePieceModel read_sentencepiece_model(const std::filesystem::path& path);

}  // namespace flux

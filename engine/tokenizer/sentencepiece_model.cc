#include "tokenizer/sentencepiece_model.h"

#include <bit>
#include <string_view>

#include "support/error.h"
#include "tokenizer/tokenizer_files.h"

namespace flux {
namespace {

// Walks the fields of one protocol buffer message (wire format: varint tag, then the value).
class MessageReader {
 public:
  MessageReader(std::string_view bytes, const std::string& file, size_t origin)
      : bytes_(bytes), file_(file), origin_(origin) {}

  /// Goes to the next field; false at the end of the message.
  bool next() {
    if (at_ == bytes_.size()) return false;
    const uint64_t tag = varint();
    number_ = tag >> 3;
    type_ = static_cast<int>(tag & 7);
    value_ = {};
    bits_ = 0;
    switch (type_) {
      case kVarint:
        bits_ = varint();
        return true;
      case kFixed64:
        bits_ = fixed(8);
        return true;
      case kFixed32:
        bits_ = fixed(4);
        return true;
      case kBytes: {
        const uint64_t size = varint();
        if (size > bytes_.size() - at_) damaged("a field reaches beyond the end");
        value_origin_ = origin_ + at_;
        value_ = bytes_.substr(at_, static_cast<size_t>(size));
        at_ += static_cast<size_t>(size);
        return true;
      }
      default:
        damaged("an unknown kind of field");
    }
  }

  static constexpr int kVarint = 0;
  static constexpr int kFixed64 = 1;
  static constexpr int kBytes = 2;
  static constexpr int kFixed32 = 5;

  bool is(uint64_t number, int type) const { return number_ == number && type_ == type; }
  uint64_t bits() const { return bits_; }
  std::string_view value() const { return value_; }
  MessageReader message() const { return {value_, file_, value_origin_}; }

 private:
  [[noreturn]] void damaged(const char* what) const {
    fail(ErrorCode::kInvalidArgument,
         "{}: {} at byte {}; the file is damaged or no sentencepiece model: copy it from the "
         "checkpoint again",
         file_, what, origin_ + at_);
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at_ == bytes_.size()) damaged("the end inside a number");
      const auto byte = static_cast<unsigned char>(bytes_[at_++]);
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    damaged("a number of more than ten bytes");
  }
  uint64_t fixed(size_t size) {
    if (bytes_.size() - at_ < size) damaged("the end inside a number");
    uint64_t value = 0;
    for (size_t i = size; i-- > 0;) {
      value = (value << 8) | static_cast<unsigned char>(bytes_[at_ + i]);
    }
    at_ += size;
    return value;
  }

  std::string_view bytes_;
  const std::string& file_;
  size_t origin_;  // of bytes_ in the file
  size_t at_ = 0;
  uint64_t number_ = 0;
  int type_ = 0;
  uint64_t bits_ = 0;
  std::string_view value_;
  size_t value_origin_ = 0;
};

SentencePieceModel::Piece read_piece(MessageReader message) {
  SentencePieceModel::Piece piece;
  while (message.next()) {
    if (message.is(1, MessageReader::kBytes)) {
      piece.text = message.value();
    } else if (message.is(2, MessageReader::kFixed32)) {
      piece.score = std::bit_cast<float>(static_cast<uint32_t>(message.bits()));
    } else if (message.is(3, MessageReader::kVarint) && message.bits() >= 1 &&
               message.bits() <= 6) {
      piece.kind = static_cast<SentencePieceModel::Kind>(message.bits());
    }
  }
  return piece;
}

}  // namespace

SentencePieceModel read_sentencepiece_model(const std::filesystem::path& path) {
  const std::string file = path.string();
  const std::string bytes = read_tokenizer_file(path);
  SentencePieceModel model;
  MessageReader message(bytes, file, 0);
  while (message.next()) {
    if (message.is(1, MessageReader::kBytes)) {
      model.pieces.push_back(read_piece(message.message()));
    } else if (message.is(3, MessageReader::kBytes)) {
      MessageReader normalizer = message.message();
      while (normalizer.next()) {
        if (normalizer.is(2, MessageReader::kBytes))
          model.precompiled_charsmap = normalizer.value();
      }
    }
  }
  check(!model.pieces.empty(), ErrorCode::kInvalidArgument,
        "{}: holds no pieces; the file is damaged or no sentencepiece model: copy it from the "
        "checkpoint again",
        file);
  return model;
}

}  // namespace flux

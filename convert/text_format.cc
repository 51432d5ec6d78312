#include "convert/text_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "support/utf8.h"

namespace flux {
namespace {

constexpr int kMostLevels = 64;  // protobuf takes 100

/// What ModelConfig has once. Of the three schedulers there may be one.
constexpr std::string_view kScheduler = "scheduler";
constexpr std::string_view kSchedulers[] = {"dynamic_batching", "sequence_batching",
                                            "ensemble_scheduling"};
constexpr std::string_view kOnce[] = {"name",
                                      "platform",
                                      "backend",
                                      "runtime",
                                      "version_policy",
                                      "max_batch_size",
                                      "optimization",
                                      "default_model_filename",
                                      "model_operations",
                                      "model_transaction_policy",
                                      "model_repository_agents",
                                      "response_cache",
                                      "model_metrics"};

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_hexadecimal(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

enum class TokenKind { kEnd, kName, kNumber, kText, kMark };

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string_view text = {};
  size_t begin = 0;

  bool is(char mark) const { return kind == TokenKind::kMark && text.front() == mark; }
};

struct SyntaxError {
  size_t position = 0;
  std::string message = {};
};

class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) { advance(); }

  void read() { read_fields('\0', 0); }

 private:
  [[noreturn]] void refuse(const std::string& message) const {
    throw SyntaxError{token_.begin, message};
  }
  [[noreturn]] void refuse_token(const char* expected) const {
    refuse(token_.kind == TokenKind::kEnd
               ? fmt::format("the text ends where {} is expected", expected)
               : fmt::format("'{}' is there where {} is expected", excerpt(token_.text), expected));
  }

  /// Of the character at `at_` and those behind it.
  char peek(size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }
  template <typename Belongs>
  void skip_while(Belongs belongs) {
    while (at_ < text_.size() && belongs(text_[at_])) ++at_;
  }

  void skip_blanks() {
    while (at_ < text_.size()) {
      if (text_[at_] == '#') {
        skip_while([](char c) { return c != '\n'; });
      } else if (std::string_view(" \t\n\v\f\r").find(text_[at_]) != std::string_view::npos) {
        ++at_;
      } else {
        return;
      }
    }
  }

  void advance() {
    skip_blanks();
    token_ = {TokenKind::kEnd, {}, at_};
    if (at_ == text_.size()) return;
    const char first = peek();
    if (is_letter(first)) {
      token_.kind = TokenKind::kName;
      skip_while([](char c) { return is_letter(c) || is_digit(c); });
    } else if (is_digit(first) || (first == '.' && is_digit(peek(1)))) {
      token_.kind = TokenKind::kNumber;
      skip_number();
    } else if (first == '"' || first == '\'') {
      token_.kind = TokenKind::kText;
      skip_text(first);
    } else {
      token_.kind = TokenKind::kMark;
      // A whole character, so that a message can quote it.
      do {
        ++at_;
      } while ((static_cast<unsigned char>(peek()) & 0xc0) == 0x80);
    }
    token_.text = text_.substr(token_.begin, at_ - token_.begin);
  }

  /// Decimal, octal, hexadecimal, or with a fraction, an exponent and an 'f'.
  void skip_number() {
    if (peek() == '0' && (peek(1) == 'x' || peek(1) == 'X') && is_hexadecimal(peek(2))) {
      at_ += 2;
      skip_while(is_hexadecimal);
    } else {
      skip_while(is_digit);
      if (peek() == '.') ++at_;
      skip_while(is_digit);
      const size_t sign = peek(1) == '+' || peek(1) == '-' ? 1 : 0;
      if ((peek() == 'e' || peek() == 'E') && is_digit(peek(1 + sign))) {
        at_ += 1 + sign;
        skip_while(is_digit);
      }
      if (peek() == 'f' || peek() == 'F') ++at_;
    }
    if (is_letter(peek()) || is_digit(peek()) || peek() == '.') {
      refuse("a number is followed by other characters");
    }
  }

  void skip_text(char quote) {
    for (++at_; peek() != quote; ++at_) {
      if (at_ >= text_.size() || peek() == '\n') refuse("a text has no end on its line");
      if (peek() != '\\') continue;
      ++at_;
      const bool known =
          std::string_view("abfnrtv\\?'\"01234567").find(peek()) != std::string_view::npos;
      const size_t digits = peek() == 'x' || peek() == 'X' ? 1 : peek() == 'u' ? 4 : 8;
      bool coded = digits < 8 || peek() == 'U';
      for (size_t i = 1; coded && i <= digits; ++i) coded = is_hexadecimal(peek(i));
      if (at_ >= text_.size() || !(known || coded)) refuse("a text has an unknown escape");
    }
    ++at_;
  }

  void expect(char mark, const char* what) {
    if (!token_.is(mark)) refuse_token(what);
    advance();
  }

  /// Fields until `end`, which is left to the caller; '\0': until the end of the text.
  void read_fields(char end, int level) {
    if (level > kMostLevels) refuse("values nest too deeply");
    while (token_.kind != TokenKind::kEnd && (end == '\0' || !token_.is(end))) {
      if (level == 0) check_once();
      read_field(level);
      if (token_.is(',') || token_.is(';')) advance();
    }
  }

  void check_once() {
    if (token_.kind != TokenKind::kName) return;
    const auto has = [&](const auto& names) {
      return std::find(std::begin(names), std::end(names), token_.text) != std::end(names);
    };
    const bool scheduler = has(kSchedulers);
    if (!scheduler && !has(kOnce)) return;
    if (once_.insert(scheduler ? kScheduler : token_.text).second) return;
    refuse(fmt::format("{} is set a second time{}", token_.text,
                       scheduler ? ", or with another scheduler" : ""));
  }

  void read_field(int level) {
    if (token_.is('[')) {  // of an extension: [name.of/it]
      do {
        advance();
      } while (token_.kind == TokenKind::kName || token_.is('.') || token_.is('/'));
      expect(']', "]");
    } else if (token_.kind == TokenKind::kName) {
      advance();
    } else {
      refuse_token("the name of a field");
    }
    const bool colon = token_.is(':');
    if (colon) advance();
    read_value(colon, level);
  }

  void read_value(bool colon, int level) {
    if (token_.is('{') || token_.is('<')) {
      const char end = token_.is('{') ? '}' : '>';
      advance();
      read_fields(end, level + 1);
      expect(end, end == '}' ? "}" : ">");
    } else if (token_.is('[')) {
      read_list(colon, level + 1);
    } else if (!colon) {
      refuse_token("':' or '{'");
    } else {
      read_scalar();
    }
  }

  void read_list(bool colon, int level) {
    advance();
    if (level > kMostLevels) refuse("values nest too deeply");
    while (!token_.is(']')) {
      if (token_.is('[')) refuse_token("a value");
      read_value(colon, level);
      if (token_.is(']')) break;
      expect(',', "',' or ']'");
      if (token_.is(']')) refuse_token("a value");
    }
    advance();
  }

  void read_scalar() {
    if (token_.kind == TokenKind::kText) {
      while (token_.kind == TokenKind::kText) advance();  // texts side by side are one
      return;
    }
    if (token_.is('-')) {
      advance();
      const bool number = token_.kind == TokenKind::kNumber || token_.kind == TokenKind::kName;
      if (!number) refuse_token("a number");
    }
    if (token_.kind != TokenKind::kNumber && token_.kind != TokenKind::kName) {
      refuse_token("a value");
    }
    advance();
  }

  std::string_view text_;
  size_t at_ = 0;
  Token token_;
  std::set<std::string_view> once_;  // fields of ModelConfig that were there
};

}  // namespace

std::optional<std::string> find_text_format_error(std::string_view text) {
  try {
    Reader(text).read();
  } catch (const SyntaxError& error) {
    const std::string_view before = text.substr(0, error.position);
    const size_t line = before.rfind('\n');  // npos + 1 is 0
    return fmt::format("line {}, column {}: {}", 1 + std::count(before.begin(), before.end(), '\n'),
                       before.size() - (line + 1) + 1, error.message);
  }
  return std::nullopt;
}

}  // namespace flux

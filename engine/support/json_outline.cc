#include "support/json_outline.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

namespace flux {
namespace {

/// Takes the events of a parser, and keeps nothing but names of the outermost object. What a
/// function returns is whether to go on.
class Watcher final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Watcher(int max_depth) : max_depth_(max_depth) {}

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return enter(); }
  bool start_array(size_t) override { return enter(); }
  bool end_object() override { return leave(); }
  bool end_array() override { return leave(); }
  bool key(string_t& name) override {
    if (level_ != 1 || names_.insert(name).second) return true;
    outline_.duplicate = name;
    return false;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;
  }

  const JsonOutline& outline() const { return outline_; }

 private:
  bool enter() {
    outline_.depth = std::max(outline_.depth, ++level_);
    return level_ <= max_depth_;
  }
  bool leave() {
    --level_;
    return true;
  }

  int max_depth_;
  int level_ = 0;
  std::set<std::string, std::less<>> names_;
  JsonOutline outline_;
};

}  // namespace

JsonOutline outline_of(std::string_view text, int max_depth) {
  Watcher watcher(max_depth);
  nlohmann::json::sax_parse(text.begin(), text.end(), &watcher);
  return watcher.outline();
}

}  // namespace flux

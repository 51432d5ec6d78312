#include "tokenizer/graphemes.h"

#include <utf8proc.h>

#include "tokenizer/code_point_ranges.h"

namespace flux::unicode {
namespace {

// Marks assigned after Unicode 15.0 that extend a cluster.
constexpr Range kLaterExtending[] = {
    {0x897, 0x897},     {0x1acf, 0x1add},   {0x1ae0, 0x1aeb},   {0x10d69, 0x10d6d},
    {0x10efa, 0x10efc}, {0x113b8, 0x113c0}, {0x113c2, 0x113c2}, {0x113c5, 0x113c5},
    {0x113c7, 0x113ca}, {0x113cc, 0x113d0}, {0x113d2, 0x113d2}, {0x113e1, 0x113e2},
    {0x11b60, 0x11b67}, {0x11f5a, 0x11f5a}, {0x1611e, 0x1612f}, {0x1e5ee, 0x1e5ef},
    {0x1e6e3, 0x1e6e3}, {0x1e6e6, 0x1e6e6}, {0x1e6ee, 0x1e6ef}, {0x1e6f5, 0x1e6f5}};

// Indic_Conjunct_Break = Consonant and = Linker (rule GB9c, which utf8proc 2.8 does not have).
constexpr Range kConjunctConsonants[] = {
    {0x915, 0x939},     {0x958, 0x95f},     {0x978, 0x97f},     {0x995, 0x9a8},
    {0x9aa, 0x9b0},     {0x9b2, 0x9b2},     {0x9b6, 0x9b9},     {0x9dc, 0x9dd},
    {0x9df, 0x9df},     {0x9f0, 0x9f1},     {0xa95, 0xaa8},     {0xaaa, 0xab0},
    {0xab2, 0xab3},     {0xab5, 0xab9},     {0xaf9, 0xaf9},     {0xb15, 0xb28},
    {0xb2a, 0xb30},     {0xb32, 0xb33},     {0xb35, 0xb39},     {0xb5c, 0xb5d},
    {0xb5f, 0xb5f},     {0xb71, 0xb71},     {0xc15, 0xc28},     {0xc2a, 0xc39},
    {0xc58, 0xc5a},     {0xd15, 0xd3a},     {0x1000, 0x102a},   {0x103f, 0x103f},
    {0x1050, 0x1055},   {0x105a, 0x105d},   {0x1061, 0x1061},   {0x1065, 0x1066},
    {0x106e, 0x1070},   {0x1075, 0x1081},   {0x108e, 0x108e},   {0x1780, 0x17b3},
    {0x1a20, 0x1a54},   {0x1b0b, 0x1b0c},   {0x1b13, 0x1b33},   {0x1b45, 0x1b4c},
    {0x1b83, 0x1ba0},   {0x1bae, 0x1baf},   {0x1bbb, 0x1bbd},   {0xa989, 0xa98b},
    {0xa98f, 0xa9b2},   {0xa9e0, 0xa9e4},   {0xa9e7, 0xa9ef},   {0xa9fa, 0xa9fe},
    {0xaa60, 0xaa6f},   {0xaa71, 0xaa73},   {0xaa7a, 0xaa7a},   {0xaa7e, 0xaa7f},
    {0xaae0, 0xaaea},   {0xabc0, 0xabda},   {0x10a00, 0x10a00}, {0x10a10, 0x10a13},
    {0x10a15, 0x10a17}, {0x10a19, 0x10a35}, {0x11103, 0x11126}, {0x11144, 0x11144},
    {0x11147, 0x11147}, {0x11380, 0x11389}, {0x1138b, 0x1138b}, {0x1138e, 0x1138e},
    {0x11390, 0x113b5}, {0x11900, 0x11906}, {0x11909, 0x11909}, {0x1190c, 0x11913},
    {0x11915, 0x11916}, {0x11918, 0x1192f}, {0x11a00, 0x11a00}, {0x11a0b, 0x11a32},
    {0x11a50, 0x11a50}, {0x11a5c, 0x11a83}, {0x11f04, 0x11f10}, {0x11f12, 0x11f33}};
constexpr Range kConjunctLinkers[] = {
    {0x94d, 0x94d},     {0x9cd, 0x9cd},     {0xacd, 0xacd},     {0xb4d, 0xb4d},
    {0xc4d, 0xc4d},     {0xd4d, 0xd4d},     {0x1039, 0x1039},   {0x17d2, 0x17d2},
    {0x1a60, 0x1a60},   {0x1b44, 0x1b44},   {0x1bab, 0x1bab},   {0xa9c0, 0xa9c0},
    {0xaaf6, 0xaaf6},   {0x10a3f, 0x10a3f}, {0x11133, 0x11133}, {0x113d0, 0x113d0},
    {0x1193e, 0x1193e}, {0x11a47, 0x11a47}, {0x11a99, 0x11a99}, {0x11f42, 0x11f42}};

enum class Conjunct { kNone, kConsonant, kLinked };

int boundary_class(char32_t c) {
  if (c == 0x113d1) return UTF8PROC_BOUNDCLASS_PREPEND;
  if (c == 0x11a3a) return UTF8PROC_BOUNDCLASS_OTHER;
  return utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->boundclass;
}

bool is_control(int kind) {
  return kind == UTF8PROC_BOUNDCLASS_CR || kind == UTF8PROC_BOUNDCLASS_LF ||
         kind == UTF8PROC_BOUNDCLASS_CONTROL;
}

bool extends(char32_t c, int kind) {
  return kind == UTF8PROC_BOUNDCLASS_EXTEND || kind == UTF8PROC_BOUNDCLASS_ZWJ ||
         contains(kLaterExtending, c);
}

}  // namespace

size_t grapheme_end(std::u32string_view text, size_t start) {
  utf8proc_int32_t state = 0;
  Conjunct conjunct =
      contains(kConjunctConsonants, text[start]) ? Conjunct::kConsonant : Conjunct::kNone;
  size_t i = start + 1;
  for (; i < text.size(); ++i) {
    const char32_t before = text[i - 1];
    const char32_t c = text[i];
    const int kind_before = boundary_class(before);
    const int kind = boundary_class(c);
    const bool consonant = contains(kConjunctConsonants, c);
    // utf8proc keeps the state of emoji and flag sequences; it must see every pair.
    bool joined = !utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(before),
                                                    static_cast<utf8proc_int32_t>(c), &state);
    if (!is_control(kind_before) && !is_control(kind)) {
      if (before == 0x11a3a) joined = extends(c, kind) || kind == UTF8PROC_BOUNDCLASS_SPACINGMARK;
      joined = joined || contains(kLaterExtending, c) ||
               kind_before == UTF8PROC_BOUNDCLASS_PREPEND ||
               (conjunct == Conjunct::kLinked && consonant);
    }
    if (!joined) break;
    if (consonant) {
      conjunct = Conjunct::kConsonant;
    } else if (!extends(c, kind) || c == 0x200c) {
      conjunct = Conjunct::kNone;
    } else if (conjunct != Conjunct::kNone && contains(kConjunctLinkers, c)) {
      conjunct = Conjunct::kLinked;
    }
  }
  return i;
}

}  // namespace flux::unicode

#include "pipeline/part_search.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <span>
#include <string_view>

#include "pipeline/gguf_tokenizer.h"
#include "pipeline/weight_layouts.h"
#include "support/error.h"
#include "support/file.h"
#include "weights/weight_files.h"

namespace flux {
namespace {

namespace fs = std::filesystem;

/// A component: the option that gives it, and the names that it has beside a transformer's file, in
/// the order in which they are tried. Programs keep parts in folders beside one another, too.
struct PartNames {
  Component component;
  const char* option;
  fs::path PartOptions::*given;
  std::span<const std::string_view> names;
  std::span<const std::string_view> folders;
};

constexpr std::string_view kNoNames[] = {""};
constexpr std::string_view kVaeNames[] = {"ae.safetensors", "ae.sft", "flux_vae.safetensors",
                                          "vae"};
constexpr std::string_view kVaeFolders[] = {".", "../vae"};
constexpr std::string_view kClipNames[] = {"clip_l.safetensors", "clip_l.gguf", "text_encoder"};
constexpr std::string_view kTextFolders[] = {".", "../text_encoders", "../clip"};
constexpr std::string_view kT5Names[] = {
    "t5xxl_fp16.safetensors",
    "t5xxl_fp8_e4m3fn_scaled.safetensors",
    "t5xxl_fp8_e4m3fn.safetensors",
    "t5-v1_1-xxl-encoder-f16.gguf",
    "t5-v1_1-xxl-encoder-Q8_0.gguf",
    "t5-v1_1-xxl-encoder-Q6_K.gguf",
    "t5-v1_1-xxl-encoder-Q5_K_M.gguf",
    "t5-v1_1-xxl-encoder-Q5_K_S.gguf",
    "t5-v1_1-xxl-encoder-Q4_K_M.gguf",
    "t5-v1_1-xxl-encoder-Q4_K_S.gguf",
    "t5-v1_1-xxl-encoder-Q3_K_M.gguf",
    "t5-v1_1-xxl-encoder-Q3_K_S.gguf",
    "text_encoder_2",
};

const PartNames kParts[] = {
    {Component::kTransformer, "--transformer", &PartOptions::transformer, kNoNames, kNoNames},
    {Component::kVae, "--vae", &PartOptions::vae, kVaeNames, kVaeFolders},
    {Component::kTextEncoder, "--clip", &PartOptions::clip, kClipNames, kTextFolders},
    {Component::kTextEncoder2, "--t5", &PartOptions::t5, kT5Names, kTextFolders},
};

fs::path& at(PartsLayout::Places& places, Component component) {
  return places[static_cast<size_t>(component)];
}

/// A place that an option gives, which must exist.
fs::path checked(const char* option, const fs::path& given) {
  std::error_code error;
  const fs::file_status status = fs::status(given, error);
  const bool known = fs::status_known(status);  // a cycle of links is not
  check(fs::exists(status), ErrorCode::kNotFound, "{} {}: {}", option, given,
        known ? "no such file or directory" : "cannot be opened: " + error.message());
  return fs::absolute(given).lexically_normal();
}

/// The first name that is there; empty when none is.
fs::path find_beside(const fs::path& directory, const PartNames& part) {
  for (const std::string_view folder : part.folders) {
    for (const std::string_view name : part.names) {
      const fs::path candidate = (directory / folder / name).lexically_normal();
      std::error_code error;
      // A link that leads nowhere is reported by who opens it.
      if (fs::exists(fs::symlink_status(candidate, error))) return candidate;
    }
  }
  return {};
}

bool has_tokenizer_files(const fs::path& directory) {
  return fs::exists(directory / "tokenizer.json") || fs::exists(directory / "spiece.model") ||
         fs::exists(directory / "vocab.json");
}

void find_tokenizers(const fs::path& directory, PartsLayout::Places& places) {
  for (const Component component : {Component::kTokenizer, Component::kTokenizer2}) {
    const fs::path folder = directory / name_of(component);
    if (fs::is_directory(folder)) {
      at(places, component) = folder;
    } else if (has_tokenizer_files(directory)) {
      at(places, component) = directory;
    }
  }
}

/// What options give.
PartsLayout::Places given_places(const PartOptions& options) {
  PartsLayout::Places places;
  for (const PartNames& part : kParts) {
    const fs::path& given = options.*part.given;
    if (!given.empty()) at(places, part.component) = checked(part.option, given);
  }
  if (!options.tokenizers.empty()) {
    const fs::path directory = checked("--tokenizers", options.tokenizers);
    find_tokenizers(directory, places);
    check(!at(places, Component::kTokenizer).empty(), ErrorCode::kNotFound,
          "--tokenizers {}: holds neither tokenizer/ and tokenizer_2/ nor their files", directory);
  }
  return places;
}

bool is_gguf_with_tokenizer(const fs::path& file) {
  std::error_code error;
  return ending_of(file) == ".gguf" && fs::is_regular_file(file, error) &&
         has_t5_tokenizer(*GgufFile::open(file));
}

/// Places of the tokenizers that no option gave.
void complete_tokenizers(const fs::path& directory, PartsLayout::Places& places) {
  PartsLayout::Places beside;
  find_tokenizers(directory, beside);
  const fs::path& t5 = at(places, Component::kTextEncoder2);
  if (at(places, Component::kTokenizer2).empty() && is_gguf_with_tokenizer(t5)) {
    at(places, Component::kTokenizer2) = t5;
  }
  for (const Component component : {Component::kTokenizer, Component::kTokenizer2}) {
    if (at(places, component).empty()) at(places, component) = at(beside, component);
    check(!at(places, component).empty(), ErrorCode::kNotFound,
          "{}: '{}' is neither there nor given: give the directory of a FLUX checkpoint, or of its "
          "tokenizer/ and tokenizer_2/, with --tokenizers",
          directory, name_of(component));
  }
}

/// Says what a file holds that has no transformer.
[[noreturn]] void refuse_source(const fs::path& file,
                                const std::shared_ptr<const TensorStore>& stored) {
  for (const PartNames& part : kParts) {
    check(find_weights(part.component, stored).store == nullptr, ErrorCode::kInvalidArgument,
          "{}: holds no transformer of FLUX.1, but '{}'; give the transformer's file, and this one "
          "with {}",
          file, name_of(part.component), part.option);
  }
  const std::string_view what = what_weights_are(*stored);
  fail(ErrorCode::kInvalidArgument,
       "{}: holds no transformer of FLUX.1{}{}; give a file that does, in F32, BF16, F16, F8_E4M3 "
       "or types of GGUF",
       file, what.empty() ? "" : ": it seems to hold ", what);
}

}  // namespace

std::unique_ptr<const Layout> find_parts(const fs::path& file, const PartOptions& options) {
  const std::shared_ptr<const TensorStore> stored = WeightFiles::open_file(file);
  const fs::path source = fs::absolute(file).lexically_normal();
  const fs::path directory = source.parent_path();
  PartsLayout::Places places = given_places(options);
  for (const PartNames& part : kParts) {
    fs::path& place = at(places, part.component);
    if (!place.empty()) continue;
    if (find_weights(part.component, stored).store != nullptr) {
      place = source;
      continue;
    }
    if (part.component == Component::kTransformer) refuse_source(file, stored);
    place = find_beside(directory, part);
    check(!place.empty(), ErrorCode::kNotFound,
          "{}: holds no '{}', and none of {} is beside it; give its file or directory with {}",
          file, name_of(part.component), fmt::join(part.names, ", "), part.option);
  }
  complete_tokenizers(directory, places);
  return std::make_unique<PartsLayout>(nullptr, std::move(places));
}

std::unique_ptr<const Layout> with_parts(std::unique_ptr<const Layout> base,
                                         const PartOptions& options) {
  PartsLayout::Places places = given_places(options);
  const bool none = std::all_of(places.begin(), places.end(),
                                [](const fs::path& place) { return place.empty(); });
  if (none) return base;
  return std::make_unique<PartsLayout>(std::move(base), std::move(places));
}

}  // namespace flux

// Fuzzes what is made of the names, shapes and types of tensors: scales that lie beside weights,
// formats that a header notes, the tables of other layouts' names, and configurations that follow
// from shapes.
// Run by `make fuzz`; the corpus is tests/fuzz/corpus/names. The first line is the text of a
// header's `_quantization_metadata`; each other one is a tensor: its name, its type as the first
// letters of kTypes, its sizes, and maybe the content of its bytes, divided by "|":
//   double_blocks.0.img_attn.qkv.weight|e|48 16

#include <algorithm>
#include <charconv>
#include <memory>
#include <vector>

#include "fuzz/tokenizer_fuzz.h"
#include "models/flux1/config.h"
#include "models/flux1/names.h"
#include "models/text/config.h"
#include "models/text/names.h"
#include "models/vae/config.h"
#include "models/vae/names.h"
#include "pipeline/weight_layouts.h"
#include "weights/renamed_store.h"
#include "weights/scaled_weights.h"

namespace {

constexpr size_t kMostTensors = 2000;
constexpr int64_t kMostBytes = 1 << 16;  // of a tensor: files hold no more than they are long

using flux::Component;

/// The entries as a store, as WeightFiles is one.
class FuzzedStore final : public flux::TensorStore {
 public:
  explicit FuzzedStore(flux::WeightEntries entries) : entries_(std::move(entries)) {}

  const flux::StoredTensor* find(std::string_view name) const override {
    const auto found = entries_.find(name);
    const bool readable = found != entries_.end() && found->second.why_unreadable.empty();
    return readable ? &found->second.tensor : nullptr;
  }
  std::string_view why_unreadable(std::string_view name) const override {
    const auto found = entries_.find(name);
    return found == entries_.end() ? std::string_view() : found->second.why_unreadable;
  }
  std::filesystem::path file_of(std::string_view) const override { return "input"; }
  std::vector<std::string> names() const override { return names_if(true); }
  std::vector<std::string> unreadable_names() const override { return names_if(false); }

 private:
  std::vector<std::string> names_if(bool readable) const {
    std::vector<std::string> names;
    for (const auto& [name, entry] : entries_) {
      if (entry.why_unreadable.empty() == readable) names.push_back(name);
    }
    return names;
  }

  flux::WeightEntries entries_;
};

std::string_view cut(std::string_view& text, char divider) {
  const size_t end = std::min(text.find(divider), text.size());
  const std::string_view first = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return first;
}

/// A tensor of a type with its bytes; nothing for one that no reader would give.
std::optional<flux::StoredTensor> make_tensor(std::string_view type, std::string_view sizes,
                                              std::string_view content) {
  struct Type {
    char letter;
    flux::Encoding encoding;
    flux::DType dtype;
  };
  static constexpr Type kTypes[] = {
      {'f', flux::Encoding::kPlain, flux::DType::kF32},
      {'b', flux::Encoding::kPlain, flux::DType::kBF16},
      {'u', flux::Encoding::kPlain, flux::DType::kU8},
      {'e', flux::Encoding::kF8E4M3, flux::DType::kU8},
      {'8', flux::Encoding::kQ8_0, flux::DType::kU8},
      {'2', flux::Encoding::kQ2K, flux::DType::kU8},
  };
  const auto* found = std::find_if(std::begin(kTypes), std::end(kTypes), [&](const Type& known) {
    return type.size() == 1 && type[0] == known.letter;
  });
  if (found == std::end(kTypes)) return std::nullopt;
  flux::Shape shape;
  int rank = 0;
  int64_t list[flux::Shape::kMaxRank] = {};
  int64_t bound = 1;
  while (!sizes.empty()) {
    const std::string_view size = cut(sizes, ' ');
    if (rank == flux::Shape::kMaxRank) return std::nullopt;
    int64_t& value = list[rank++];
    std::from_chars(size.data(), size.data() + size.size(), value);
    if (value < 0 || __builtin_mul_overflow(bound, std::max<int64_t>(value, 1), &bound) ||
        bound > int64_t{1} << 48) {
      return std::nullopt;
    }
  }
  shape = flux::Shape(list, rank);
  const flux::EncodingInfo& info = flux::info_of(found->encoding);
  const int64_t columns = rank == 0 ? 1 : list[rank - 1];
  if (columns % info.block_values != 0) return std::nullopt;
  const bool plain = found->encoding == flux::Encoding::kPlain;
  const int64_t row = plain ? columns * static_cast<int64_t>(flux::size_of(found->dtype))
                            : columns / info.block_values * info.block_bytes;
  const int64_t rows = columns == 0 ? 0 : shape.numel() / columns;
  if (rows != 0 && row > kMostBytes / rows) return std::nullopt;
  const flux::Shape stored = plain ? shape : flux::Shape{rows, row};
  const flux::Tensor data = flux::Tensor::allocate(stored, found->dtype);
  auto* bytes = static_cast<char*>(data.raw());
  std::fill_n(bytes, data.bytes(), '\x30');
  std::copy_n(content.begin(), std::min<int64_t>(data.bytes(), std::ssize(content)), bytes);
  return plain ? flux::StoredTensor(data) : flux::StoredTensor(found->encoding, shape, data);
}

std::shared_ptr<const flux::TensorStore> make_store(std::string_view text) {
  flux::WeightEntries entries;
  const std::string_view note = cut(text, '\n');
  while (!text.empty() && entries.size() < kMostTensors) {
    std::string_view line = cut(text, '\n');
    const std::string_view name = cut(line, '|');
    const std::string_view type = cut(line, '|');
    const std::string_view sizes = cut(line, '|');
    flux::WeightEntry entry;
    const auto tensor = make_tensor(type, sizes, line);
    if (tensor) entry.tensor = *tensor;
    if (!tensor) entry.why_unreadable = "is stored as X";
    entries.emplace(name, std::move(entry));
  }
  flux::mark_other_formats(entries, note);
  flux::attach_scales(entries);
  return std::make_shared<FuzzedStore>(std::move(entries));
}

/// Decodes a tensor, of a larger one the last of its first dimension, where a wrong size shows.
void decode_some(const flux::StoredTensor& tensor) {
  constexpr int64_t kMostValues = 256;
  flux::StoredTensor part = tensor;
  if (tensor.numel() > kMostValues && tensor.shape.rank() > 1) {
    part = flux::slice(tensor, tensor.shape[0] - 1, tensor.shape[0]);
  }
  if (part.numel() > kMostValues) return;
  flux::fuzz::allow_errors([&] {  // integers are no weights
    const flux::Tensor values = flux::decode(part, flux::DType::kF32);
    if (values.shape() != part.shape) std::abort();
  });
}

/// What a store lists is there, and can be read.
void read_all(const flux::TensorStore& store) {
  for (const std::string& name : store.names()) {
    const flux::StoredTensor* tensor = store.find(name);
    if (tensor == nullptr || !store.why_unreadable(name).empty()) std::abort();
    decode_some(*tensor);
    store.stored_name(name);
  }
  for (const std::string& name : store.unreadable_names()) {
    if (store.find(name) != nullptr || store.why_unreadable(name).empty()) std::abort();
  }
}

void load_inferred(Component component, const flux::TensorStore& store) {
  const flux::ConfigReader config("input", flux::infer_config(component, store));
  switch (component) {
    case Component::kTransformer:
      flux::load_flux_transformer_config(config);
      break;
    case Component::kVae:
      flux::load_vae_config(config);
      break;
    case Component::kTextEncoder:
      flux::load_clip_config(config);
      break;
    default:
      flux::load_t5_config(config);
      break;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto stored = make_store({reinterpret_cast<const char*>(data), size});
  flux::what_weights_are(*stored);
  for (const Component component : {Component::kTransformer, Component::kVae,
                                    Component::kTextEncoder, Component::kTextEncoder2}) {
    flux::fuzz::allow_errors([&] {
      const flux::NamedWeights found = flux::find_weights(component, stored);
      if (found.store == nullptr) return;
      read_all(*found.store);
      load_inferred(component, *found.store);
    });
    // Binding by a config asks for any name, and infers from what is there.
    flux::fuzz::allow_errors([&] { load_inferred(component, *stored); });
  }
  for (const auto& names : {flux::bfl_transformer_names(), flux::bfl_vae_names(),
                            flux::llama_t5_names(), flux::llama_clip_names()}) {
    flux::fuzz::allow_errors([&] { read_all(flux::RenamedStore(stored, "", names, 4)); });
  }
  return 0;
}

#include "adapters/dialects.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <unordered_map>
#include <vector>

#include "models/config_reader.h"
#include "models/flux1/names.h"

namespace flux {
namespace {

struct RoleRow {
  std::string_view ending;
  TensorRole role;
};
// An ending comes before those that it ends with.
constexpr RoleRow kRoles[] = {
    {".lora_A.default.weight", TensorRole::kDown},
    {".lora_A.weight", TensorRole::kDown},
    {".lora_A", TensorRole::kDown},
    {".lora_down.weight", TensorRole::kDown},
    {".lora.down.weight", TensorRole::kDown},
    {".down.weight", TensorRole::kDown},  // XLabs
    {".lora_B.default.weight", TensorRole::kUp},
    {".lora_B.weight", TensorRole::kUp},
    {".lora_B", TensorRole::kUp},
    {".lora_up.weight", TensorRole::kUp},
    {".lora.up.weight", TensorRole::kUp},
    {".up.weight", TensorRole::kUp},
    {".lora_B.default.bias", TensorRole::kUpBias},
    {".lora_B.bias", TensorRole::kUpBias},
    {".lora_up.bias", TensorRole::kUpBias},
    {".alpha", TensorRole::kAlpha},
    {".dora_scale", TensorRole::kDoraScale},
    {".lora_magnitude_vector", TensorRole::kDoraScale},
    {".lora_magnitude_vector.weight", TensorRole::kDoraScale},
    {".lora_magnitude_vector.default.weight", TensorRole::kDoraScale},
    {".lokr_w1", TensorRole::kLokrW1},
    {".lokr_w1_a", TensorRole::kLokrW1A},
    {".lokr_w1_b", TensorRole::kLokrW1B},
    {".lokr_w2", TensorRole::kLokrW2},
    {".lokr_w2_a", TensorRole::kLokrW2A},
    {".lokr_w2_b", TensorRole::kLokrW2B},
    {".hada_w1_a", TensorRole::kHadaW1A},
    {".hada_w1_b", TensorRole::kHadaW1B},
    {".hada_w2_a", TensorRole::kHadaW2A},
    {".hada_w2_b", TensorRole::kHadaW2B},
    {".lora_mid.weight", TensorRole::kTucker},
    {".lokr_t2", TensorRole::kTucker},
    {".hada_t1", TensorRole::kTucker},
    {".hada_t2", TensorRole::kTucker},
    {".diff", TensorRole::kDifference},
    {".w_norm", TensorRole::kDifference},
    {".diff_b", TensorRole::kBiasDifference},
    {".b_norm", TensorRole::kBiasDifference},
    {".scale", TensorRole::kWhole},
    {".weight", TensorRole::kWhole},
};

// XLabs' names of linears (1: image, 2: text), by those of Black Forest Labs.
constexpr NameRow kXlabsNames[] = {
    {"double_blocks.#.img_attn.qkv", "double_blocks.#.processor.qkv_lora1"},
    {"double_blocks.#.txt_attn.qkv", "double_blocks.#.processor.qkv_lora2"},
    {"double_blocks.#.img_attn.proj", "double_blocks.#.processor.proj_lora1"},
    {"double_blocks.#.txt_attn.proj", "double_blocks.#.processor.proj_lora2"},
    {"single_blocks.#.linear2", "single_blocks.#.processor.proj_lora"},
};
// Of linear1 they change q, k and v, without the MLP.
constexpr NameRow kXlabsSingle[] = {
    {"single_transformer_blocks.#.attn.to_q", "single_blocks.#.processor.qkv_lora", {0, 1, 3}},
    {"single_transformer_blocks.#.attn.to_k", "single_blocks.#.processor.qkv_lora", {1, 2, 3}},
    {"single_transformer_blocks.#.attn.to_v", "single_blocks.#.processor.qkv_lora", {2, 3, 3}},
};

enum class Layout : uint8_t { kOurs, kBfl, kXlabs };

/// What a name stands for, with "#" for the number of a block.
struct Entry {
  Layout layout = Layout::kOurs;
  std::vector<ModulePart> parts;
};
using Names = std::unordered_map<std::string, Entry>;

/// "double_blocks.#.img_attn.qkv" of a row's "...qkv.*", "...query_norm" of "...query_norm.scale".
std::string_view module_of(std::string_view name) { return name.substr(0, name.rfind('.')); }

void add_part(Names& names, Layout layout, std::string_view name, const ModulePart& part) {
  Entry& entry = names[std::string(name)];
  entry.layout = layout;
  entry.parts.push_back(part);
}

/// The dotted names of a model's modules.
Names make_names(AdapterModel model) {
  Names names;
  for (const Module& module : adapter_modules()) {
    if (module.model == model) add_part(names, Layout::kOurs, module.name, {&module, {}});
  }
  if (model == AdapterModel::kClip) {  // newer versions of transformers leave this out
    constexpr std::string_view kPrefix = "text_model.";
    for (const Module& module : adapter_modules()) {
      if (module.model != model) continue;
      add_part(names, Layout::kOurs, module.name.substr(kPrefix.size()), {&module, {}});
    }
  }
  if (model != AdapterModel::kTransformer) return names;
  for (const NameRow& row : bfl_transformer_names()) {
    add_part(names, Layout::kBfl, module_of(row.stored),
             {find_module(model, module_of(row.ours)), row.part});
  }
  for (const NameRow& row : kXlabsNames) {
    Entry entry = names.at(std::string(row.ours));
    entry.layout = Layout::kXlabs;
    names.emplace(row.stored, std::move(entry));
  }
  for (const NameRow& row : kXlabsSingle) {
    add_part(names, Layout::kXlabs, row.stored, {find_module(model, row.ours), row.part});
  }
  return names;
}

/// The same with "_" in place of dots.
Names underscored(const Names& dotted) {
  Names names;
  for (const auto& [name, entry] : dotted) {
    std::string key = name;
    std::replace(key.begin(), key.end(), '.', '_');
    names.emplace(std::move(key), entry);
  }
  return names;
}

const Names& names_of(AdapterModel model, char divider) {
  static const Names dotted[] = {make_names(AdapterModel::kTransformer),
                                 make_names(AdapterModel::kClip), make_names(AdapterModel::kT5)};
  static const Names flat[] = {underscored(dotted[0]), underscored(dotted[1]),
                               underscored(dotted[2])};
  return (divider == '.' ? dotted : flat)[static_cast<size_t>(model)];
}

/// What is written before the names of modules, and which dialect that is.
struct PrefixRow {
  std::string_view prefix;
  AdapterModel model;
  char divider;
  std::string_view dialect;  // empty: as the layout of the names
};
constexpr PrefixRow kPrefixes[] = {
    {"lora_unet_", AdapterModel::kTransformer, '_', "kohya"},
    {"lora_te_", AdapterModel::kClip, '_', "kohya"},
    {"lora_te1_", AdapterModel::kClip, '_', "kohya"},
    {"lora_te2_", AdapterModel::kT5, '_', "OneTrainer"},
    {"lora_te3_", AdapterModel::kT5, '_', "kohya"},
    {"lora_transformer_", AdapterModel::kTransformer, '_', "OneTrainer"},
    {"lycoris_", AdapterModel::kTransformer, '_', "LyCORIS"},
    {"transformer.", AdapterModel::kTransformer, '.', "diffusers"},
    {"text_encoder.", AdapterModel::kClip, '.', "diffusers"},
    {"text_encoder_2.", AdapterModel::kT5, '.', "diffusers"},
    {"diffusion_model.", AdapterModel::kTransformer, '.', "ComfyUI"},
    {"model.diffusion_model.", AdapterModel::kTransformer, '.', "ComfyUI"},
    {"text_encoders.clip_l.transformer.", AdapterModel::kClip, '.', "ComfyUI"},
    {"text_encoders.t5xxl.transformer.", AdapterModel::kT5, '.', "ComfyUI"},
    {"", AdapterModel::kTransformer, '.', ""},
};
constexpr std::string_view kPeftPrefix = "base_model.model.";

std::string_view dialect_of(const PrefixRow& row, Layout layout) {
  if (layout == Layout::kXlabs) return "XLabs";
  if (!row.dialect.empty()) return row.dialect;
  return layout == Layout::kBfl ? "Black Forest Labs" : "PEFT";
}

/// A name with "#" in place of the first of its parts that is a number.
struct NumberedName {
  std::string pattern;
  int64_t number = 0;
};
std::optional<NumberedName> cut_number(std::string_view name, char divider) {
  for (size_t begin = 0; begin < name.size();) {
    const size_t end = std::min(name.find(divider, begin), name.size());
    const auto number = number_of(name.substr(begin, end - begin));
    if (number && *number < kMaxLayers) {
      std::string pattern(name.substr(0, begin));
      pattern.append("#").append(name.substr(end));
      return NumberedName{std::move(pattern), *number};
    }
    begin = end + 1;
  }
  return std::nullopt;
}

std::optional<NamedModule> find_under(const PrefixRow& row, std::string_view name) {
  if (name.find('#') != name.npos) return std::nullopt;
  const Names& names = names_of(row.model, row.divider);
  auto found = names.find(std::string(name));
  int64_t block = -1;
  if (found == names.end()) {
    const auto numbered = cut_number(name, row.divider);
    if (!numbered) return std::nullopt;
    found = names.find(numbered->pattern);
    block = numbered->number;
  }
  if (found == names.end()) return std::nullopt;
  return NamedModule{dialect_of(row, found->second.layout), block, found->second.parts};
}

}  // namespace

std::optional<TensorName> parse_tensor_name(std::string_view name) {
  for (const RoleRow& row : kRoles) {
    if (!name.ends_with(row.ending)) continue;
    return TensorName{name.substr(0, name.size() - row.ending.size()), row.role};
  }
  return std::nullopt;
}

std::optional<NamedModule> find_named_module(std::string_view name) {
  if (name.starts_with(kPeftPrefix)) name.remove_prefix(kPeftPrefix.size());
  for (const PrefixRow& row : kPrefixes) {
    if (!name.starts_with(row.prefix)) continue;
    auto found = find_under(row, name.substr(row.prefix.size()));
    if (found) return found;
  }
  return std::nullopt;
}

}  // namespace flux

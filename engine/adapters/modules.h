#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

/// The modules that adapters change, by the names that diffusers and transformers give them.
namespace flux {

enum class AdapterModel : uint8_t { kTransformer, kClip, kT5 };
/// "transformer", "clip", "t5".
std::string_view name_of(AdapterModel model);

enum class Parameter : uint8_t { kWeight, kBias };

/// The sizes of the models that shapes of modules are multiples of.
enum class Width : uint8_t {
  kNone,  // no such dimension
  kHidden,
  kHead,
  kInput,
  kOutput,
  kText,
  kPooled,
  kTimestep,
  kClip,
  kClipMlp,
  kT5,
  kT5Heads,
  kT5Mlp,
};
inline constexpr size_t kWidths = static_cast<size_t>(Width::kT5Mlp) + 1;
/// As messages name it: "hidden size".
std::string_view name_of(Width width);

/// A dimension of a weight: `times` times a width.
struct Dimension {
  Width width = Width::kNone;
  int64_t times = 1;
};

/// A module, or the modules that are one in each block: "#" stands for the block's number.
struct Module {
  AdapterModel model;
  std::string_view name;
  Dimension rows;
  Dimension columns;  // kNone: a norm, whose weight is a vector
};

/// All of them.
std::span<const Module> adapter_modules();
/// The module of a name with "#" for the block's number, or null.
const Module* find_module(AdapterModel model, std::string_view name);

}  // namespace flux

#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "adapters/modules.h"
#include "weights/renamed_store.h"

/// How files name what they change. A tensor's name is that of a module, in one of many dialects,
/// and a role: "lora_unet_double_blocks_0_img_attn_qkv" and ".lora_down.weight".
namespace flux {

/// What a tensor is of a change.
enum class TensorRole : uint8_t {
  kDown,
  kUp,
  kUpBias,
  kAlpha,
  kDoraScale,
  kLokrW1,
  kLokrW1A,
  kLokrW1B,
  kLokrW2,
  kLokrW2A,
  kLokrW2B,
  kHadaW1A,
  kHadaW1B,
  kHadaW2A,
  kHadaW2B,
  kTucker,      // the third factor of a convolution
  kDifference,  // of a weight
  kBiasDifference,
  kWhole,  // a weight as it is: only norms may have one in an adapter
};

/// A tensor's name, taken apart.
struct TensorName {
  std::string_view module;
  TensorRole role;
};
/// Nothing for a name that ends like no tensor of an adapter.
std::optional<TensorName> parse_tensor_name(std::string_view name);

/// The rows that a module has of a matrix in a file.
struct ModulePart {
  const Module* module;
  StoredPart part;
};

/// What the name of a module stands for.
struct NamedModule {
  std::string_view dialect;  // "kohya"
  int64_t block = -1;        // the number of its block, for "#"; -1: it is in none
  std::span<const ModulePart> parts;
};
/// Nothing for a name that no module has in any dialect.
std::optional<NamedModule> find_named_module(std::string_view name);

}  // namespace flux

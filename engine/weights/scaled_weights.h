#pragma once

#include <map>
#include <string>
#include <string_view>

#include "tensor/encoding.h"

namespace flux {

/// A tensor of a component's files.
struct WeightEntry {
  StoredTensor tensor;
  size_t file = 0;             // index of the file that holds it
  std::string why_unreadable;  // then there is no tensor
};
using WeightEntries = std::map<std::string, WeightEntry, std::less<>>;

/// Gives e4m3 weights the scales that ComfyUI stores beside them, and takes those out of `entries`.
/// For a layer X: X.weight_scale, before that X.scale_weight (f32, for the whole weight or for each
/// row); X.comfy_quant, a JSON text in bytes, names the format; X.input_scale and X.scale_input are
/// for activations, and not used here; one tensor scaled_fp8 marks a file. A layer of another
/// format becomes unreadable, with its name.
void attach_scales(WeightEntries& entries);

/// Marks the layers that `_quantization_metadata` of a safetensors header says to be of another
/// format than float8_e4m3fn. `text`: {"layers": {name: {"format": ...}}}; anything else in it is
/// ignored.
void mark_other_formats(WeightEntries& entries, std::string_view text);

}  // namespace flux

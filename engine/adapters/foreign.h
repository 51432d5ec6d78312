#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace flux {

/// What a file seems to be of whose tensors these are, none of which fits FLUX.1, for messages: "an
/// adapter of Qwen-Image". Empty: nothing that is known.
std::string_view what_adapter_is(std::span<const std::string> names);

/// The model that is as wide, for messages: "Stable Diffusion 3.5". Empty: none that is known.
std::string_view model_of_width(int64_t hidden_size);

}  // namespace flux

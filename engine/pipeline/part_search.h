#pragma once

#include <filesystem>
#include <memory>

#include "flux/parts.h"
#include "pipeline/layout.h"

namespace flux {

/// Finds the parts that belong to a single file of weights: those that `options` give, those in the
/// file itself, and those beside it under the names that people's files have (ae.safetensors,
/// clip_l.safetensors, t5xxl_fp16.safetensors, vae/, tokenizer/, ...). Throws kNotFound, naming the
/// option that gives it, for a part that is nowhere, kInvalidArgument for a file that holds no
/// transformer.
std::unique_ptr<const Layout> find_parts(const std::filesystem::path& file,
                                         const PartOptions& options);

/// A layout with the parts that `options` give instead of those of `base`; `base` itself where they
/// give none. Throws kNotFound for a place that does not exist.
std::unique_ptr<const Layout> with_parts(std::unique_ptr<const Layout> base,
                                         const PartOptions& options);

}  // namespace flux

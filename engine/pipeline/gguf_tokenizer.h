#pragma once

#include "tokenizer/sentencepiece_model.h"
#include "weights/gguf.h"

namespace flux {

/// Whether a GGUF file carries the tokenizer of a T5.
bool has_t5_tokenizer(const GgufFile& file);

/// The sentencepiece model in the metadata of a T5 in GGUF, as llama.cpp writes it:
/// tokenizer.ggml.tokens, scores, token_type and precompiled_charsmap. Throws kInvalidArgument for
/// lists that do not belong to one another.
SentencePieceModel sentencepiece_of(const GgufFile& file);

}  // namespace flux

#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "ops/kernels.h"
#include "pipeline/checkpoint.h"
#include "pipeline/stages.h"

namespace flux {

struct LocalOptions {
  DType dtype = DType::kF32;                                 // compute dtype: f32 or bf16
  Quantization quantization = Quantization::kNone;           // of the large linears
  AttentionPrecision attention = AttentionPrecision::kSame;  // of the transformer
  Device device;
  int threads = 1;
  /// Bytes of the device's memory for weights and tensors; the driver and libraries take some more.
  /// Stages leave when another one needs their room, and are loaded again when they are wanted.
  std::optional<int64_t> memory_limit = {};

  Precision precision() const { return {dtype, quantization, attention}; }
};

/// The stages in this process. A stage's weights are loaded by load() or on its first use, once,
/// unless the device's memory is too small for all; calls come from one thread at a time.
class LocalStages final : public Stages {
 public:
  /// Reads nothing but what `checkpoint` already holds. Throws kUnsupported for a dtype that the
  /// device cannot compute in.
  LocalStages(std::shared_ptr<const Checkpoint> checkpoint, const LocalOptions& options);
  /// The same on a backend of the caller's, which must outlive the stages; `options.device` is not
  /// used.
  LocalStages(std::shared_ptr<const Checkpoint> checkpoint, Backend& backend,
              const LocalOptions& options);
  ~LocalStages() override;

  /// Loads the weights (and tokenizer) of a stage unless they are there.
  void load(StageKind stage);
  /// Bytes that the loaded weights of a stage hold; 0 before it is loaded.
  int64_t weight_bytes(StageKind stage) const;
  /// Reads what the adapters change, not their values. Throws for a file that cannot be used.
  void open_adapters(std::span<const AdapterChoice> adapters);
  /// The names of tensors of adapters that change nothing of the models, in alphabetical order:
  /// complete after images with them. They are open.
  std::vector<std::string> unused_tensors(std::span<const AdapterChoice> adapters) const;
  /// Bytes of scratch memory held.
  int64_t workspace_bytes() const;

  std::vector<TextEmbeddings> encode(std::span<const TextInput> rows) override;
  std::vector<Tensor> encode_image(const ConstTensor& image,
                                   std::span<const PosteriorDraw> draws) override;
  void transformer(std::span<const TransformerInput> rows) override;
  Tensor decode(const ConstTensor& latents) override;

  /// The two halves of encode(). `truncated`, which may be null, is set when the text was cut.
  Tensor encode_clip(std::string_view prompt, bool* truncated,
                     std::span<const AdapterChoice> adapters = {});
  Tensor encode_t5(std::string_view prompt, int max_sequence_length, bool* truncated,
                   std::span<const AdapterChoice> adapters = {});

  /// The context every forward uses: cancellation and tracing are set here.
  Context& context() override;

 private:
  template <typename Stage>
  bool encode_text(StageKind kind, const std::optional<Stage>& stage, std::string_view prompt,
                   std::span<const AdapterChoice> adapters, const Tensor& out);

  struct Loaded;
  std::unique_ptr<Loaded> loaded_;
};

}  // namespace flux

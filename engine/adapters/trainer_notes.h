#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace flux {

/// What a trainer wrote into `__metadata__` of an adapter's file. All of it is untrusted.
class TrainerNotes {
 public:
  using Texts = std::map<std::string, std::string, std::less<>>;

  /// `file` is for messages. Throws kInvalidArgument for what changes how the adapter is applied
  /// and cannot be understood.
  TrainerNotes(const std::string& file, const Texts& metadata);

  /// The scale of a low-rank update whose file has no alpha for it, as diffusers notes it under
  /// "lora_adapter_metadata"; nothing where there is no note. `module` has its prefix:
  /// "transformer.x_embedder".
  std::optional<double> scale_of(std::string_view module, int64_t rank) const;

  /// What a user may want to know, each at most kMaxNoteBytes long: "ss_base_model_version",
  /// "modelspec.title", ... and, as "trigger_words", the tags that most images were trained with.
  const Texts& shown() const { return shown_; }
  static constexpr size_t kMaxNoteBytes = 200;

 private:
  struct Config {
    double alpha = 8;                                   // peft's default
    bool rank_stabilised = false;                       // the scale is alpha / sqrt(rank)
    std::map<std::string, double, std::less<>> alphas;  // of modules that have another one
  };

  void read_configs(const std::string& file, const std::string& text);

  std::map<std::string, Config, std::less<>> configs_;  // by the prefix of names: "transformer"
  Texts shown_;
};

}  // namespace flux

#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "weights/scaled_weights.h"
#include "weights/tensor_store.h"
#include "weights/weight_file.h"

namespace flux {

/// All tensors of a file, or of the shards of an index json. Immutable; the files stay mapped while
/// it lives.
class WeightFiles final : public TensorStore {
 public:
  WeightFiles() = default;
  /// Whether a text may be the name of a variant: it becomes a part of files' names.
  static bool is_variant(std::string_view text);
  /// The file to begin with in `directory`: `stem`.safetensors or `stem`.safetensors.index.json
  /// (stem: "model" or "diffusion_pytorch_model"); where both are there, the one that the library
  /// of that stem loads. With a `variant`, such as "fp16", its files where they are there:
  /// `stem`.fp16.safetensors, `stem`.safetensors.index.fp16.json. Empty where there is none.
  static std::filesystem::path first_file(const std::filesystem::path& directory,
                                          std::string_view stem, std::string_view variant = {});
  /// Opens first_file(), of an index all shards. Throws kNotFound when there is none,
  /// kInvalidArgument for a damaged file, an index that does not fit its shards, or a shard outside
  /// the directory.
  static std::unique_ptr<const WeightFiles> open(const std::filesystem::path& directory,
                                                 std::string_view stem,
                                                 std::string_view variant = {});
  /// Opens one safetensors or GGUF file. Throws as WeightFile::open().
  static std::unique_ptr<const WeightFiles> open_file(const std::filesystem::path& file);

  const std::vector<std::unique_ptr<const WeightFile>>& files() const { return files_; }
  const StoredTensor* find(std::string_view name) const override;
  std::string_view why_unreadable(std::string_view name) const override;
  std::filesystem::path file_of(std::string_view name) const override;
  std::vector<std::string> names() const override;
  std::vector<std::string> unreadable_names() const override;

 private:
  void add_file(std::unique_ptr<const WeightFile> file);
  void add(const std::string& name, WeightEntry entry);
  /// Applies what files say of their tensors beside them.
  void finish();

  std::filesystem::path directory_;
  std::vector<std::unique_ptr<const WeightFile>> files_;
  WeightEntries tensors_;
};

}  // namespace flux

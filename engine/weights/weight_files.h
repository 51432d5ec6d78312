#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "weights/safetensors.h"
#include "weights/tensor_store.h"

namespace flux {

/// All tensors of one component: a single safetensors file, or the shards of an index json.
/// Immutable; the files stay mapped while it lives.
class WeightFiles final : public TensorStore {
 public:
  WeightFiles() = default;
  /// Opens `directory`/`stem`.safetensors or `directory`/`stem`.safetensors.index.json with its
  /// shards (stem: "model" or "diffusion_pytorch_model"); where both are there, the one that the
  /// library of that stem loads. Throws kNotFound when neither is there,
  /// kInvalidArgument for a damaged file, an index that does not fit its shards, or a shard outside
  /// the directory.
  static std::unique_ptr<const WeightFiles> open(const std::filesystem::path& directory,
                                                 std::string_view stem);

  const ConstTensor* find(std::string_view name) const override;
  std::string_view why_unreadable(std::string_view name) const override;
  std::filesystem::path file_of(std::string_view name) const override;
  std::vector<std::string> names() const override;
  std::vector<std::string> unreadable_names() const override;
  void drop_pages(const ConstTensor& tensor) const override;

 private:
  struct Entry {
    ConstTensor tensor;
    size_t file = 0;
    std::string why_unreadable;  // then there is no tensor
  };
  void add(const std::string& name, Entry entry);

  std::filesystem::path directory_;
  std::vector<std::unique_ptr<const SafetensorsFile>> files_;
  std::map<std::string, Entry, std::less<>> tensors_;
};

}  // namespace flux

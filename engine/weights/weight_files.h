#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/tensor.h"
#include "weights/safetensors.h"

namespace flux {

/// All tensors of one component: a single safetensors file, or the shards of an index json.
/// Immutable; the files stay mapped while it lives.
class WeightFiles {
 public:
  WeightFiles() = default;
  /// Opens `directory`/`stem`.safetensors or `directory`/`stem`.safetensors.index.json with its
  /// shards (stem: "model" or "diffusion_pytorch_model"). Throws kNotFound when neither is there,
  /// kInvalidArgument for a damaged file, an index that does not fit its shards, or a shard outside
  /// the directory.
  static std::unique_ptr<const WeightFiles> open(const std::filesystem::path& directory,
                                                 std::string_view stem);

  /// The named tensor's view into the mapped file, or null.
  const Tensor* find(std::string_view name) const;
  /// The file that holds it, for messages; the component's directory when it has no such tensor.
  std::filesystem::path file_of(std::string_view name) const;
  /// Names in alphabetical order.
  std::vector<std::string> names() const;

  const std::filesystem::path& directory() const { return directory_; }
  /// Number of elements and bytes of all tensors.
  int64_t parameter_count() const;
  int64_t bytes() const;
  /// The floating point dtype that most parameters are stored in.
  DType dtype() const;

  /// Tells the system that the pages of `tensor` are not needed for now (they can be read again),
  /// so that packed weights and their source do not both count as resident.
  void drop_pages(const Tensor& tensor) const;

 private:
  struct Entry {
    Tensor tensor;
    size_t file = 0;
  };
  std::filesystem::path directory_;
  std::vector<std::unique_ptr<const SafetensorsFile>> files_;
  std::map<std::string, Entry, std::less<>> tensors_;
};

}  // namespace flux

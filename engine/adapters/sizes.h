#pragma once

#include <array>
#include <string>
#include <string_view>

#include "adapters/adapter.h"

namespace flux {

/// Collects what the shapes of changes tell of the model that they are for.
class SizeCollector {
 public:
  /// `file` is for messages, and must outlive the collector.
  explicit SizeCollector(const std::string& file) : file_(file) {}

  /// A change of all of `module` in block `block`: its rows, and its columns where `columns` is not
  /// 0. `tensor` is for messages. Throws kInvalidArgument when no model has such a module beside
  /// what was added before.
  void add(const Module& module, int64_t block, const Shape& shape, const std::string& tensor);

  const AdapterSizes& sizes() const { return sizes_; }

 private:
  void add(const Dimension& dimension, int64_t size, const std::string& tensor);

  const std::string& file_;
  AdapterSizes sizes_;
  std::array<std::string, kWidths> tensors_;  // that told each width
};

}  // namespace flux

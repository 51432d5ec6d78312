#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace flux {

/// A map from byte strings to non-negative numbers that finds every key a text starts with, walking
/// the text once. Edges lie in one open-addressing hash table, so a step costs the same whatever
/// the keys are. Const members may be called from several threads.
class ByteTrie {
 public:
  using Node = uint32_t;
  static constexpr Node kRoot = 0;

  ByteTrie();

  /// Sets the value of a non-empty key; an earlier value of the same key is replaced.
  void insert(std::string_view key, int32_t value);

  /// Reserves memory for keys of so many bytes in all; only a hint.
  void reserve(size_t bytes);

  /// The node reached from `node` by one byte, if any key continues so.
  std::optional<Node> step(Node node, char byte) const;

  /// Value of the key that ends at `node`, or -1.
  int32_t value(Node node) const { return values_[node]; }

  /// Value of exactly `key`, or -1.
  int32_t find(std::string_view key) const;

 private:
  struct Edge {
    uint64_t key = 0;  // (parent << 8 | byte) + 1; 0 is a free slot
    Node child = 0;
  };
  size_t slot(uint64_t key) const;
  void grow(size_t capacity);

  std::vector<Edge> edges_;  // the size is a power of two
  std::vector<int32_t> values_;
};

}  // namespace flux

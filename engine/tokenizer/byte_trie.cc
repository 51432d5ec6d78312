#include "tokenizer/byte_trie.h"

#include <bit>
#include <utility>

namespace flux {
namespace {

uint64_t edge_key(ByteTrie::Node parent, char byte) {
  return ((static_cast<uint64_t>(parent) << 8) | static_cast<unsigned char>(byte)) + 1;
}

}  // namespace

ByteTrie::ByteTrie() : edges_(64), values_{-1} {}

size_t ByteTrie::slot(uint64_t key) const {
  const size_t mask = edges_.size() - 1;
  // Fibonacci hashing; the product's upper half is well mixed.
  size_t at = static_cast<size_t>((key * 0x9e3779b97f4a7c15ull) >> 32) & mask;
  while (edges_[at].key != 0 && edges_[at].key != key) at = (at + 1) & mask;
  return at;
}

void ByteTrie::grow(size_t capacity) {
  std::vector<Edge> old = std::exchange(edges_, std::vector<Edge>(std::bit_ceil(capacity)));
  for (const Edge& edge : old) {
    if (edge.key != 0) edges_[slot(edge.key)] = edge;
  }
}

void ByteTrie::reserve(size_t bytes) {
  if (bytes * 2 > edges_.size()) grow(bytes * 2);
}

void ByteTrie::insert(std::string_view key, int32_t value) {
  Node node = kRoot;
  for (const char byte : key) {
    const uint64_t wanted = edge_key(node, byte);
    size_t at = slot(wanted);
    if (edges_[at].key == 0) {
      if (values_.size() * 2 > edges_.size()) {
        grow(edges_.size() * 2);
        at = slot(wanted);
      }
      edges_[at] = {wanted, static_cast<Node>(values_.size())};
      values_.push_back(-1);
    }
    node = edges_[at].child;
  }
  if (node != kRoot) values_[node] = value;
}

std::optional<ByteTrie::Node> ByteTrie::step(Node node, char byte) const {
  const Edge& edge = edges_[slot(edge_key(node, byte))];
  if (edge.key == 0) return std::nullopt;
  return edge.child;
}

int32_t ByteTrie::find(std::string_view key) const {
  Node node = kRoot;
  for (const char byte : key) {
    const std::optional<Node> next = step(node, byte);
    if (!next) return -1;
    node = *next;
  }
  return value(node);
}

}  // namespace flux

#include "weights/renamed_store.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "support/error.h"
#include "tensor/format.h"

namespace flux {
namespace {

/// What stands before the first dot, which is taken away with it.
std::string_view cut_part(std::string_view& name) {
  const size_t dot = std::min(name.find('.'), name.size());
  const std::string_view part = name.substr(0, dot);
  name.remove_prefix(std::min(dot + 1, name.size()));
  return part;
}

/// Whether `name` is one of `pattern`; its numbers then.
std::optional<std::vector<int64_t>> match(std::string_view name, std::string_view pattern) {
  if (name.ends_with('.')) return std::nullopt;
  std::vector<int64_t> numbers;
  while (!name.empty() && !pattern.empty()) {
    const std::string_view part = cut_part(name);
    const std::string_view place = cut_part(pattern);
    if (place == "#" || place == "%") {
      const auto number = number_of(part);
      if (!number) return std::nullopt;
      numbers.push_back(*number);
    } else if (part != place) {
      return std::nullopt;
    }
  }
  if (!name.empty() || !pattern.empty()) return std::nullopt;
  return numbers;
}

/// `pattern` with numbers at their places.
std::string fill(std::string_view pattern, const std::vector<int64_t>& numbers, int64_t levels) {
  std::string text;
  size_t next = 0;
  for (const char c : pattern) {
    if (c == '#') {
      text += std::to_string(numbers[next++]);
    } else if (c == '%') {
      text += std::to_string(levels - 1 - numbers[next++]);
    } else {
      text += c;
    }
  }
  return text;
}

/// A row of ".*" as the two that it stands for.
std::vector<NameRow> expand(const NameRow& row, std::vector<std::string>& texts) {
  if (!row.stored.ends_with(".*")) return {row};
  std::vector<NameRow> rows;
  for (const char* kind : {"weight", "bias"}) {
    NameRow one = row;
    for (std::string_view* name : {&one.ours, &one.stored}) {
      texts.push_back(std::string(name->substr(0, name->size() - 1)) + kind);
      *name = texts.back();
    }
    rows.push_back(one);
  }
  return rows;
}

/// The tensor with the halves of its rows exchanged: a copy.
StoredTensor with_halves_swapped(const StoredTensor& tensor) {
  StoredTensor swapped = in_memory(tensor);
  const ConstTensor data = swapped.data;
  const Tensor copy = Tensor::allocate(data.shape(), data.dtype());
  const auto half = static_cast<size_t>(data.bytes() / 2);
  auto* to = static_cast<std::byte*>(copy.raw());
  const auto* from = static_cast<const std::byte*>(data.raw());
  std::memcpy(to, from + half, half);
  std::memcpy(to + half, from, half);
  swapped.data = copy;
  if (tensor.scales.defined() && tensor.scales.numel() > 1) {
    const StoredTensor scales(tensor.scales);
    swapped.scales = with_halves_swapped(scales).data;
  }
  return swapped;
}

StoredTensor part_of(const StoredTensor& stored, const StoredPart& part) {
  StoredTensor tensor = stored;
  if (part.is_matrix && stored.shape.rank() == 4 && stored.shape[2] == 1 && stored.shape[3] == 1) {
    tensor.shape = {stored.shape[0], stored.shape[1]};
    tensor.data = stored.data.reshape(tensor.shape);  // an element or a byte for each value
  }
  if (part.of > 1) {
    const int64_t rows = tensor.shape[0] / part.of;
    tensor = slice(tensor, part.begin * rows, part.end * rows);
  }
  return tensor;
}

/// Why a stored tensor cannot have the part; empty: it can.
std::string why_without(const StoredTensor& stored, const StoredPart& part) {
  const int of = part.halves_swapped ? 2 : part.of;
  if (of > 1 && (stored.shape.rank() == 0 || stored.shape[0] % of != 0)) {
    return fmt::format("has shape {}, expected a first dimension of {} equal parts", stored.shape,
                       of);
  }
  const bool cut = of > 1 && stored.shape.rank() == 1 && !stored.is_plain();
  if (cut && stored.shape[0] / of % info_of(stored.encoding).block_values != 0) {
    return fmt::format("is stored as {} and cannot be cut into {} parts", stored.type_name(), of);
  }
  if (part.is_matrix && stored.encoding > Encoding::kF8E4M3) {
    return fmt::format("is stored as {}, expected a plain type", stored.type_name());
  }
  if (part.is_matrix && stored.shape.rank() == 4 && stored.scales.defined() &&
      stored.scales.numel() > 1) {
    return "is a convolution with a scale for each row, expected one scale";
  }
  return "";
}

}  // namespace

std::optional<int64_t> number_of(std::string_view part) {
  constexpr size_t kMostDigits = 6;
  int64_t number = 0;
  const char* end = part.data() + part.size();
  const auto [stop, error] = std::from_chars(part.data(), end, number);
  const bool plain = error == std::errc() && stop == end && part.size() <= kMostDigits &&
                     number >= 0 && (part.size() == 1 || part[0] != '0');
  return plain ? std::optional(number) : std::nullopt;
}

RenamedStore::RenamedStore(std::shared_ptr<const TensorStore> stored, std::string prefix,
                           std::span<const NameRow> names, int64_t levels)
    : stored_(std::move(stored)), prefix_(std::move(prefix)), levels_(levels) {
  texts_.reserve(4 * names.size());
  for (const NameRow& row : names) {
    for (const NameRow& one : expand(row, texts_)) rows_.push_back(one);
  }
  std::vector<std::string> all = stored_->names();
  for (std::string& name : stored_->unreadable_names()) all.push_back(std::move(name));
  for (const std::string& name : all) {
    if (!name.starts_with(prefix_)) continue;
    const std::string_view rest = std::string_view(name).substr(prefix_.size());
    bool known = false;
    for (const NameRow& row : rows_) {
      const auto numbers = match(rest, row.stored);
      if (!numbers) continue;
      add(fill(row.ours, *numbers, levels), name, row.part);
      known = true;
    }
    if (!known) add(std::string(rest), name, {});
  }
}

void RenamedStore::add(const std::string& name, const std::string& stored, const StoredPart& part) {
  Entry entry{stored, part, std::string(stored_->why_unreadable(stored)), {}};
  const StoredTensor* tensor = stored_->find(stored);
  if (tensor != nullptr) {
    entry.why_unreadable = why_without(*tensor, part);
    if (entry.why_unreadable.empty()) entry.tensor = part_of(*tensor, part);
  }
  // What has to be copied waits until it is wanted.
  if (part.halves_swapped) entry.tensor.data = {};
  const auto [at, added] = entries_.emplace(name, std::move(entry));
  check(added, ErrorCode::kInvalidArgument,
        "{}: tensors '{}' and '{}' are both '{}' of diffusers; use a file that has one of them",
        stored_->file_of(stored), at->second.stored, stored, name);
}

const StoredTensor* RenamedStore::find(std::string_view name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end() || !found->second.why_unreadable.empty()) return nullptr;
  Entry& entry = found->second;
  if (entry.part.halves_swapped) {
    const std::scoped_lock lock(mutex_);
    if (!entry.tensor.defined()) entry.tensor = with_halves_swapped(*stored_->find(entry.stored));
  }
  return &entry.tensor;
}

std::string_view RenamedStore::why_unreadable(std::string_view name) const {
  const auto found = entries_.find(name);
  return found == entries_.end() ? std::string_view() : found->second.why_unreadable;
}

std::string RenamedStore::stored_name(std::string_view name) const {
  const auto found = entries_.find(name);
  if (found != entries_.end()) return found->second.stored;
  for (const NameRow& row : rows_) {
    if (const auto numbers = match(name, row.ours)) {
      return prefix_ + fill(row.stored, *numbers, levels_);
    }
  }
  return prefix_ + std::string(name);
}

std::filesystem::path RenamedStore::file_of(std::string_view name) const {
  return stored_->file_of(stored_name(name));
}

std::vector<std::string> RenamedStore::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : entries_) {
    if (entry.why_unreadable.empty()) names.push_back(name);
  }
  return names;
}

std::vector<std::string> RenamedStore::unreadable_names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : entries_) {
    if (!entry.why_unreadable.empty()) names.push_back(name);
  }
  return names;
}

Shape shape_of(const TensorStore& store, std::string_view name, int rank) {
  const std::string_view unreadable = store.why_unreadable(name);
  check(unreadable.empty(), ErrorCode::kInvalidArgument, "{}: tensor '{}' {}", store.file_of(name),
        store.stored_name(name), unreadable);
  const StoredTensor* tensor = store.find(name);
  check(tensor != nullptr, ErrorCode::kNotFound, "{}: tensor '{}' is missing", store.file_of(name),
        store.stored_name(name));
  check(tensor->shape.rank() == rank && tensor->numel() > 0, ErrorCode::kInvalidArgument,
        "{}: tensor '{}' has shape {}, expected {} dimensions", store.file_of(name),
        store.stored_name(name), tensor->shape, rank);
  return tensor->shape;
}

int64_t count_numbered(const TensorStore& store, std::string_view pattern) {
  const auto hash = pattern.find('#');
  std::map<int64_t, std::string> numbers;  // with the first tensor of each
  std::vector<std::string> names = store.names();
  for (std::string& name : store.unreadable_names()) names.push_back(std::move(name));
  for (std::string& name : names) {
    if (!name.starts_with(pattern.substr(0, hash))) continue;
    const std::string_view rest = std::string_view(name).substr(hash);
    const auto number = number_of(rest.substr(0, rest.find('.')));
    if (number) numbers.try_emplace(*number, std::move(name));
  }
  int64_t count = 0;
  for (const auto& [number, name] : numbers) {
    check(number == count, ErrorCode::kInvalidArgument,
          "{}: tensor '{}' is there, and none with {} in place of its {}; the file lacks a part of "
          "the model, or is of another one",
          store.file_of(name), store.stored_name(name), count, number);
    ++count;
  }
  return count;
}

}  // namespace flux

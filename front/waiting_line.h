#pragma once

#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <utility>

namespace flux::front {

/// Requests that wait, in the order in which they will begin: by priority, then by arrival.
template <typename Item>
class WaitingLine {
 public:
  /// The place of a request: what is less begins earlier.
  using Place = std::pair<int, uint64_t>;

  /// `priority`: a lower one goes first.
  Place add(int priority, Item item) {
    const Place place(priority, ++arrivals_);
    items_.emplace(place, std::move(item));
    return place;
  }
  void remove(const Place& place) { items_.erase(place); }
  /// Takes the first one out; nothing when none waits.
  std::optional<Item> take_first() {
    if (items_.empty()) return std::nullopt;
    std::optional<Item> first(std::move(items_.begin()->second));
    items_.erase(items_.begin());
    return first;
  }
  /// How many begin before `place`.
  size_t position(const Place& place) const {
    return static_cast<size_t>(std::distance(items_.begin(), items_.lower_bound(place)));
  }
  /// How many would begin before one that comes now.
  size_t position_of_next(int priority) const { return position({priority, arrivals_ + 1}); }
  size_t size() const { return items_.size(); }
  /// Calls `use` with each, in order.
  template <typename Use>
  void for_each(const Use& use) const {
    for (const auto& [place, item] : items_) use(item);
  }

 private:
  std::map<Place, Item> items_;
  uint64_t arrivals_ = 0;
};

}  // namespace flux::front

#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <limits>
#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace flux {

/// Whose weights are on a device that has no room for those of all its models: weights come when
/// their model is used, and for them go those of models that nobody uses, the longest unused first.
/// Thread-safe.
class WeightResidency {
 public:
  struct Room {
    int64_t budget = std::numeric_limits<int64_t>::max();  // bytes of all weights, at most
    std::function<int64_t()> available = {};  // about how many bytes the device could give now
  };

  /// How a model's weights come and go.
  struct Weights {
    std::string model;        // its name, for messages
    int64_t least_bytes = 0;  // that they take, as far as is known before they came first
    /// Brings them, and returns their bytes. What it throws reaches who wants them; kUnavailable
    /// says that the device has no room.
    std::function<int64_t()> load;
    /// Takes them away. Called under the lock of all models, while nobody uses the model.
    std::function<void()> drop;
  };

  /// A model of the device. Its weights are absent at first. When it ends nobody may use it; what
  /// it has loaded is then its owner's.
  class Member {
   public:
    Member(WeightResidency& residency, Weights weights);
    ~Member();
    Member(const Member&) = delete;
    Member& operator=(const Member&) = delete;

    /// What keeps the weights on the device while it lives.
    class Use {
     public:
      ~Use();
      Use(Use&& other) noexcept : member_(std::exchange(other.member_, nullptr)) {}
      Use& operator=(Use&&) = delete;

     private:
      friend class Member;
      explicit Use(Member& member) : member_(&member) {}
      Member* member_;  // null: moved from
    };

    /// Brings the weights unless they are there, and waits where the models that have the room are
    /// in use. `stopped` is asked every few milliseconds meanwhile. Throws kCancelled when it says
    /// so, kUnavailable when no room can be made, and what load() throws.
    Use use(const std::function<bool()>& stopped);
    /// Takes away the longest unused weights of another model. Returns its name; empty when all
    /// others are in use or absent.
    std::string drop_another();

   private:
    friend class WeightResidency;
    enum class State { kAbsent, kLoading, kLoaded };
    using Lock = std::unique_lock<std::mutex>;

    /// Returns whether the weights came or may come at once; if not, others must end their use.
    bool try_to_load(Lock& lock);
    /// Calls load() without the lock. Returns what it threw, or null.
    std::exception_ptr load(Lock& lock);
    /// Drops others until there is room for these weights, or none is left. Returns whether there
    /// is.
    bool make_room();
    [[noreturn]] void fail_over_budget() const;

    WeightResidency& residency_;
    Weights weights_;
    State state_ = State::kAbsent;
    int users_ = 0;
    int64_t bytes_ = 0;  // as they were last
    double seconds_ = 0;
    uint64_t last_used_ = 0;
  };

  explicit WeightResidency(Room room) : room_(std::move(room)) {}
  WeightResidency(const WeightResidency&) = delete;
  WeightResidency& operator=(const WeightResidency&) = delete;

  /// The seconds that a model's weights took to come, where they are absent now; 0 where they are
  /// there. Nothing when it is none of the device.
  std::optional<double> seconds_to_load(std::string_view model) const;

 private:
  /// The bytes that members other than `member` have there, or on their way.
  int64_t used_beside(const Member& member) const;
  /// Whether one of them is in use or loading, so that room may come.
  bool is_busy_beside(const Member& member) const;
  /// Drops the longest unused of them. Returns it; null: all are in use or absent.
  Member* drop_beside(const Member& member);

  Room room_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::list<Member*> members_;
  uint64_t uses_ = 0;
};

}  // namespace flux

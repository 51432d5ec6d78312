#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "scheduling/step_costs.h"
#include "scheduling/step_policy.h"

namespace flux {

/// Gives the requests that denoise on a device their turns, a step at a time, in the order of a
/// policy. A step of several requests together is a computation; a device with `lanes` does so many
/// at a time. Requests that are left for others keep all that they have. Thread-safe.
class StepScheduler {
 public:
  using Clock = std::chrono::steady_clock;

  struct Settings {
    StepPolicy policy = StepPolicy::kShare;
    double bound = 8;      // of slowdowns; see goes_before()
    int lanes = 1;         // computations at a time, >= 1
    int64_t capacity = 0;  // tokens that a computation gains from; 0: a request at a time
  };

  struct Job {
    int priority = 1;    // the class: a lower one goes first
    int steps = 0;       // > 0
    int64_t tokens = 0;  // of a step, all rows together
    Clock::time_point arrived = Clock::now();
    std::optional<Clock::time_point> deadline = {};
  };

  /// What a request asks for its turns; destroyed, it takes none any more.
  class Turns {
   public:
    ~Turns();
    Turns(const Turns&) = delete;
    Turns& operator=(const Turns&) = delete;

    /// Ends the step before, and waits until the next one may begin. `stopped` is asked every few
    /// milliseconds. Throws kCancelled when it says so, and kUnavailable, with the estimate, when
    /// the deadline cannot be met any more.
    void next(const std::function<bool()>& stopped);

   private:
    friend class StepScheduler;
    struct Entry;
    explicit Turns(StepScheduler& scheduler, std::list<Entry>::iterator entry)
        : scheduler_(scheduler), entry_(entry) {}

    StepScheduler& scheduler_;
    std::list<Entry>::iterator entry_;
  };

  explicit StepScheduler(const Settings& settings) : settings_(settings) {}
  StepScheduler(const StepScheduler&) = delete;
  StepScheduler& operator=(const StepScheduler&) = delete;

  /// Both as in Settings, from the next computation on.
  void set_lanes(int lanes, int64_t capacity);

  /// Throws kUnavailable, with the estimate, where the deadline cannot be met.
  std::unique_ptr<Turns> enter(const Job& job);
  /// Requests that wait for a turn.
  size_t waiting() const;

 private:
  using Entry = Turns::Entry;
  struct Computation;

  StepCandidate candidate_of(const Entry& entry, Clock::time_point now) const;
  /// Throws where the deadline cannot be met even if nothing but `ahead` seconds were before it.
  void check_deadline(const Entry& entry, double ahead, Clock::time_point now) const;
  double work_ahead(const Entry& entry, Clock::time_point now) const;
  /// Begins computations while there are lanes and requests that wait.
  void begin_computations();
  void end_turn(Entry& entry);

  Settings settings_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::list<Entry> entries_;
  std::list<Computation> computations_;
  StepCosts costs_;
  uint64_t arrivals_ = 0;
};

/// A request that is in the scheduler.
struct StepScheduler::Turns::Entry {
  enum class State { kAway, kWaiting, kComputing };

  Job job;
  uint64_t order;
  int steps_left;  // that have not begun
  State state = State::kAway;
  Computation* computation = nullptr;  // whose part its step is
};

/// A step of requests together.
struct StepScheduler::Computation {
  Clock::time_point begun;
  int64_t tokens = 0;
  int members = 0;  // that have not ended their step
};

}  // namespace flux

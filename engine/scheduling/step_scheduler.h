#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
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
    int64_t capacity = 0;  // tokens of a computation, at most; 0: a request at a time
  };

  struct Job {
    int priority = 1;        // the class: a lower one goes first
    int steps = 0;           // > 0
    int64_t tokens = 0;      // of a step, all rows together
    std::string model = {};  // whose steps they are: what they cost, and which go together
    /// Seconds until the model's weights would be on the device; null: they are there.
    std::function<double()> seconds_to_load = {};
    Clock::time_point arrived = Clock::now();
    std::optional<Clock::time_point> deadline = {};
    const void* owner = nullptr;  // for load(); anything
  };

  /// What a request in the scheduler can expect.
  struct Outlook {
    size_t ahead = 0;  // requests that go before it
    /// Until its steps are taken, its weights loaded and the steps of the requests before it taken
    /// among that. Nothing while no step
    /// was timed: with kShare none ever is.
    std::optional<double> seconds = {};
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
    /// Ends the step before, for a request that does not ask for the next one yet: others may take
    /// theirs. One that asks at once loses its place to them.
    void pause();

    /// What the request can expect, if no other came. Any thread may ask.
    Outlook outlook() const;

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
  struct Load {
    size_t waiting = 0;  // requests that wait for a turn
    double seconds = 0;  // that the steps of all requests still take, as far as is known
    std::optional<double> median_error = {};  // see StepCosts; the worst of the models'
  };
  /// Of the requests of an owner; null: of all.
  Load load(const void* owner = nullptr) const;

 private:
  using Entry = Turns::Entry;
  struct Computation;

  StepCandidate candidate_of(const Entry& entry, Clock::time_point now) const;
  /// What a step of the entry takes alone, as far as is known.
  std::optional<double> cost_of(const Entry& entry) const;
  /// Throws where the deadline cannot be met even if nothing but `ahead` seconds were before it.
  void check_deadline(const Entry& entry, double ahead, Clock::time_point now) const;
  /// The requests that go before it, and the seconds that their steps take.
  struct Queue {
    size_t requests = 0;
    double seconds = 0;
  };
  Queue queue_before(const Entry& entry, Clock::time_point now) const;
  /// Begins computations while there are lanes and requests that wait.
  void begin_computations();
  void end_turn(Entry& entry);

  Settings settings_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::list<Entry> entries_;
  std::list<Computation> computations_;
  std::map<std::string, StepCosts> costs_;  // by model
  uint64_t arrivals_ = 0;
};

/// A request that is in the scheduler.
struct StepScheduler::Turns::Entry {
  enum class State { kAway, kWaiting, kComputing };

  Job job;
  uint64_t order;
  StepCosts* costs;
  int steps_left;  // that have not begun
  State state = State::kAway;
  Computation* computation = nullptr;  // whose part its step is
};

/// A step of requests together.
struct StepScheduler::Computation {
  Clock::time_point begun;
  StepCosts* costs = nullptr;
  int64_t tokens = 0;
  int members = 0;     // that have not ended their step
  bool loads = false;  // weights come first
};

}  // namespace flux

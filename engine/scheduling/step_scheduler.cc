#include "scheduling/step_scheduler.h"

#include <algorithm>

#include "support/error.h"

namespace flux {
namespace {

double seconds_between(StepScheduler::Clock::time_point from, StepScheduler::Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

StepScheduler::Turns::~Turns() {
  const std::scoped_lock lock(scheduler_.mutex_);
  scheduler_.end_turn(*entry_);
  scheduler_.entries_.erase(entry_);
  scheduler_.begin_computations();
}

void StepScheduler::Turns::next(const std::function<bool()>& stopped) {
  constexpr auto kPollInterval = std::chrono::milliseconds(20);
  StepScheduler& own = scheduler_;
  std::unique_lock lock(own.mutex_);
  own.end_turn(*entry_);
  own.check_deadline(*entry_, 0, Clock::now());
  entry_->state = Entry::State::kWaiting;
  own.begin_computations();
  while (entry_->state == Entry::State::kWaiting) {
    own.changed_.wait_for(lock, kPollInterval);
    if (entry_->state != Entry::State::kWaiting) break;
    lock.unlock();
    const bool stop = stopped();
    lock.lock();
    if (entry_->state != Entry::State::kWaiting) break;
    if (stop) {
      entry_->state = Entry::State::kAway;
      fail(ErrorCode::kCancelled, "cancelled while it waited for its turn");
    }
  }
}

void StepScheduler::set_lanes(int lanes, int64_t capacity) {
  const std::scoped_lock lock(mutex_);
  settings_.lanes = lanes;
  settings_.capacity = capacity;
  begin_computations();
}

std::unique_ptr<StepScheduler::Turns> StepScheduler::enter(const Job& job) {
  check(job.steps > 0 && job.tokens >= 0, ErrorCode::kInternal,
        "a request of {} steps of {} tokens", job.steps, job.tokens);
  const std::scoped_lock lock(mutex_);
  Entry entry{.job = job, .order = arrivals_++, .steps_left = job.steps};
  const Clock::time_point now = Clock::now();
  check_deadline(entry, work_ahead(entry, now), now);
  entries_.push_back(entry);
  return std::unique_ptr<Turns>(new Turns(*this, std::prev(entries_.end())));
}

size_t StepScheduler::waiting() const {
  const std::scoped_lock lock(mutex_);
  return static_cast<size_t>(
      std::count_if(entries_.begin(), entries_.end(),
                    [](const Entry& entry) { return entry.state == Entry::State::kWaiting; }));
}

StepCandidate StepScheduler::candidate_of(const Entry& entry, Clock::time_point now) const {
  // Before the first step was timed all cost the same for each token, whatever that is.
  const double cost =
      costs_.of(entry.job.tokens).value_or(1e-6 * static_cast<double>(entry.job.tokens + 1));
  return {.priority = entry.job.priority,
          .order = entry.order,
          .waited = seconds_between(entry.job.arrived, now),
          .remaining = cost * entry.steps_left,
          .alone = cost * entry.job.steps,
          .tokens = entry.job.tokens};
}

void StepScheduler::check_deadline(const Entry& entry, double ahead, Clock::time_point now) const {
  if (!entry.job.deadline || !costs_.of(entry.job.tokens)) return;
  const double own = candidate_of(entry, now).remaining;
  const double left = seconds_between(now, *entry.job.deadline);
  check(ahead + own <= left, ErrorCode::kUnavailable,
        "the request's timeout cannot be met: its steps take {:.2f} s after {:.2f} s of others, "
        "and {:.2f} s are left",
        own, ahead, std::max(0.0, left));
}

double StepScheduler::work_ahead(const Entry& entry, Clock::time_point now) const {
  if (settings_.policy == StepPolicy::kShare) return 0;
  const StepCandidate own = candidate_of(entry, now);
  double seconds = 0;
  for (const Entry& other : entries_) {
    const StepCandidate candidate = candidate_of(other, now);
    if (goes_before(candidate, own, settings_.policy, settings_.bound)) {
      seconds += candidate.remaining;
    }
  }
  return seconds / settings_.lanes;
}

void StepScheduler::begin_computations() {
  const bool shares = settings_.policy == StepPolicy::kShare;
  while (shares || std::ssize(computations_) < settings_.lanes) {
    const Clock::time_point now = Clock::now();
    std::vector<Entry*> waiting;
    std::vector<StepCandidate> candidates;
    for (Entry& entry : entries_) {
      if (entry.state != Entry::State::kWaiting) continue;
      waiting.push_back(&entry);
      candidates.push_back(candidate_of(entry, now));
    }
    if (waiting.empty()) return;
    Computation& computation = computations_.emplace_back();
    computation.begun = now;
    for (const size_t i :
         choose_step(candidates, settings_.policy, settings_.bound, settings_.capacity)) {
      Entry& entry = *waiting[i];
      entry.state = Entry::State::kComputing;
      entry.computation = &computation;
      --entry.steps_left;
      computation.tokens += entry.job.tokens;
      ++computation.members;
    }
    changed_.notify_all();
  }
}

void StepScheduler::end_turn(Entry& entry) {
  if (entry.state != Entry::State::kComputing) return;
  entry.state = Entry::State::kAway;
  Computation& computation = *entry.computation;
  entry.computation = nullptr;
  if (--computation.members > 0) return;
  // What others compute at the same time is not this step's cost.
  if (settings_.policy != StepPolicy::kShare) {
    costs_.learn(computation.tokens, seconds_between(computation.begun, Clock::now()));
  }
  computations_.remove_if([&](const Computation& other) { return &other == &computation; });
}

}  // namespace flux

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

void StepScheduler::Turns::pause() {
  const std::scoped_lock lock(scheduler_.mutex_);
  scheduler_.end_turn(*entry_);
  scheduler_.begin_computations();
}

StepScheduler::Outlook StepScheduler::Turns::outlook() const {
  const StepScheduler& own = scheduler_;
  const std::scoped_lock lock(own.mutex_);
  const Clock::time_point now = Clock::now();
  const Queue before = own.queue_before(*entry_, now);
  Outlook outlook{.ahead = before.requests};
  if (own.cost_of(*entry_)) {
    const StepCandidate candidate = own.candidate_of(*entry_, now);
    outlook.seconds = before.seconds + candidate.to_load + candidate.remaining;
  }
  return outlook;
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
  Entry entry{
      .job = job, .order = arrivals_++, .costs = &costs_[job.model], .steps_left = job.steps};
  const Clock::time_point now = Clock::now();
  check_deadline(entry, queue_before(entry, now).seconds, now);
  entries_.push_back(entry);
  return std::unique_ptr<Turns>(new Turns(*this, std::prev(entries_.end())));
}

StepScheduler::Load StepScheduler::load(const void* owner) const {
  const std::scoped_lock lock(mutex_);
  Load load;
  for (const auto& [model, costs] : costs_) {
    load.median_error = std::max(load.median_error, costs.median_error());
  }
  for (const Entry& entry : entries_) {
    if (owner != nullptr && entry.job.owner != owner) continue;
    load.waiting += entry.state == Entry::State::kWaiting;
    load.seconds += cost_of(entry).value_or(0) * entry.steps_left / settings_.lanes;
  }
  return load;
}

std::optional<double> StepScheduler::cost_of(const Entry& entry) const {
  return entry.costs->of(entry.job.tokens);
}

StepCandidate StepScheduler::candidate_of(const Entry& entry, Clock::time_point now) const {
  // Before the first step was timed all cost the same for each token, whatever that is.
  const double cost = cost_of(entry).value_or(1e-6 * static_cast<double>(entry.job.tokens + 1));
  return {.priority = entry.job.priority,
          .order = entry.order,
          .waited = seconds_between(entry.job.arrived, now),
          .remaining = cost * entry.steps_left,
          .to_load = entry.job.seconds_to_load ? entry.job.seconds_to_load() : 0,
          .alone = cost * entry.job.steps,
          .tokens = entry.job.tokens,
          .costs = entry.costs};
}

void StepScheduler::check_deadline(const Entry& entry, double ahead, Clock::time_point now) const {
  if (!entry.job.deadline || !cost_of(entry)) return;
  const StepCandidate candidate = candidate_of(entry, now);
  const double own = candidate.to_load + candidate.remaining;
  const double left = seconds_between(now, *entry.job.deadline);
  check(ahead + own <= left, ErrorCode::kUnavailable,
        "the request's timeout cannot be met: its steps take {:.2f} s after {:.2f} s of others, "
        "and {:.2f} s are left",
        own, ahead, std::max(0.0, left));
}

StepScheduler::Queue StepScheduler::queue_before(const Entry& entry, Clock::time_point now) const {
  Queue queue;
  if (settings_.policy == StepPolicy::kShare) return queue;
  const StepCandidate own = candidate_of(entry, now);
  for (const Entry& other : entries_) {
    const StepCandidate candidate = candidate_of(other, now);
    if (goes_before(candidate, own, settings_.policy, settings_.bound)) {
      ++queue.requests;
      queue.seconds += candidate.remaining / settings_.lanes;
    }
  }
  return queue;
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
      computation.costs = entry.costs;
      computation.loads |= candidates[i].to_load > 0;
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
  if (settings_.policy != StepPolicy::kShare && !computation.loads) {
    computation.costs->learn(computation.tokens, seconds_between(computation.begun, Clock::now()));
  }
  computations_.remove_if([&](const Computation& other) { return &other == &computation; });
}

}  // namespace flux

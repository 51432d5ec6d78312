#include "scheduling/weight_residency.h"

#include <algorithm>
#include <chrono>

#include "support/error.h"
#include "support/log.h"

namespace flux {
namespace {

using Clock = std::chrono::steady_clock;

double in_gib(int64_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

}  // namespace

WeightResidency::Member::Member(WeightResidency& residency, Weights weights)
    : residency_(residency), weights_(std::move(weights)), bytes_(weights_.least_bytes) {
  const std::scoped_lock lock(residency_.mutex_);
  residency_.members_.push_back(this);
}

WeightResidency::Member::~Member() {
  const std::scoped_lock lock(residency_.mutex_);
  residency_.members_.remove(this);
  residency_.changed_.notify_all();
}

WeightResidency::Member::Use::~Use() {
  if (member_ == nullptr) return;
  const std::scoped_lock lock(member_->residency_.mutex_);
  --member_->users_;
  member_->residency_.changed_.notify_all();
}

WeightResidency::Member::Use WeightResidency::Member::use(const std::function<bool()>& stopped) {
  constexpr auto kPollInterval = std::chrono::milliseconds(20);
  Lock lock(residency_.mutex_);
  while (state_ != State::kLoaded) {
    lock.unlock();
    check(!stopped(), ErrorCode::kCancelled, "cancelled while it waited for the weights of {}",
          weights_.model);
    lock.lock();
    if (state_ == State::kAbsent && try_to_load(lock)) continue;
    if (state_ != State::kLoaded) residency_.changed_.wait_for(lock, kPollInterval);
  }
  ++users_;
  last_used_ = ++residency_.uses_;
  return Use(*this);
}

bool WeightResidency::Member::try_to_load(Lock& lock) {
  if (!make_room() && residency_.is_busy_beside(*this)) return false;
  if (bytes_ > residency_.room_.budget) fail_over_budget();
  // The device may have more than it tells.
  const std::exception_ptr error = load(lock);
  if (error == nullptr) {
    // Some weights take more than was known before they came first.
    if (make_room()) return true;
    weights_.drop();
    state_ = State::kAbsent;
    if (residency_.is_busy_beside(*this)) return false;
    fail_over_budget();
  }
  try {
    std::rethrow_exception(error);
  } catch (const Error& known) {
    if (known.code() != ErrorCode::kUnavailable) throw;
    if (residency_.drop_beside(*this) != nullptr) return true;
    if (!residency_.is_busy_beside(*this)) throw;
  }
  return false;
}

std::exception_ptr WeightResidency::Member::load(Lock& lock) {
  state_ = State::kLoading;
  lock.unlock();
  const Clock::time_point begin = Clock::now();
  int64_t bytes = 0;
  std::exception_ptr error;
  try {
    bytes = weights_.load();
  } catch (...) {
    error = std::current_exception();
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  lock.lock();
  residency_.changed_.notify_all();
  state_ = error == nullptr ? State::kLoaded : State::kAbsent;
  if (error == nullptr) {
    bytes_ = bytes;
    seconds_ = seconds;
  }
  return error;
}

bool WeightResidency::Member::make_room() {
  const auto has_room = [this] {
    const WeightResidency& all = residency_;
    if (all.used_beside(*this) > all.room_.budget - bytes_) return false;
    return state_ == State::kLoaded || !all.room_.available || all.room_.available() >= bytes_;
  };
  while (!has_room()) {
    if (residency_.drop_beside(*this) == nullptr) return false;
  }
  return true;
}

void WeightResidency::Member::fail_over_budget() const {
  fail(ErrorCode::kUnavailable,
       "the weights of {} take {:.3f} GiB: at most {:.3f} GiB of weights may be on the device; "
       "allow it more",
       weights_.model, in_gib(bytes_), in_gib(residency_.room_.budget));
}

std::string WeightResidency::Member::drop_another() {
  const std::scoped_lock lock(residency_.mutex_);
  const Member* dropped = residency_.drop_beside(*this);
  return dropped == nullptr ? "" : dropped->weights_.model;
}

std::optional<double> WeightResidency::seconds_to_load(std::string_view model) const {
  const std::scoped_lock lock(mutex_);
  for (const Member* member : members_) {
    if (member->weights_.model != model) continue;
    return member->state_ == Member::State::kLoaded ? 0 : member->seconds_;
  }
  return std::nullopt;
}

int64_t WeightResidency::used_beside(const Member& member) const {
  int64_t bytes = 0;
  for (const Member* other : members_) {
    if (other != &member && other->state_ != Member::State::kAbsent) bytes += other->bytes_;
  }
  return bytes;
}

bool WeightResidency::is_busy_beside(const Member& member) const {
  return std::any_of(members_.begin(), members_.end(), [&](const Member* other) {
    return other != &member && (other->users_ > 0 || other->state_ == Member::State::kLoading);
  });
}

WeightResidency::Member* WeightResidency::drop_beside(const Member& member) {
  Member* longest = nullptr;
  for (Member* other : members_) {
    const bool may_go =
        other != &member && other->state_ == Member::State::kLoaded && other->users_ == 0;
    if (may_go && (longest == nullptr || other->last_used_ < longest->last_used_)) longest = other;
  }
  if (longest == nullptr) return nullptr;
  longest->weights_.drop();
  longest->state_ = Member::State::kAbsent;
  log(LogLevel::kInfo, fmt::format("{}: its weights leave for those of {}", longest->weights_.model,
                                   member.weights_.model));
  return longest;
}

}  // namespace flux

#include "front/generation.h"

#include <fmt/format.h>

#include <algorithm>

namespace flux::front {
namespace {

/// Shorter than what proxies wait for a server that says nothing.
constexpr std::chrono::seconds kSilence(10);

HttpAnswer error_answer(const ApiError& error) {
  HttpAnswer answer{.status = error.status, .body = error_json(error)};
  if (error.status == 503) answer.headers.emplace_back("Retry-After", "1");
  return answer;
}

}  // namespace

Generation::Generation(ImageRequest request, const ImageWords& words,
                       std::shared_ptr<Exchange> exchange)
    : request_(std::move(request)),
      words_(words),
      exchange_(std::move(exchange)),
      previews_(request_.partial_images) {}

void Generation::set_outlook(size_t position, std::optional<double> seconds) {
  headers_.emplace_back("X-Queue-Position", std::to_string(position));
  if (seconds) headers_.emplace_back("X-Estimated-Seconds", fmt::format("{:.3f}", *seconds));
}

void Generation::begin_stream() {
  if (is_over() || streams_ || !request_.stream) return;
  streams_ = true;
  HttpAnswer head{.type = "text/event-stream", .headers = headers_};
  head.headers.emplace_back("Cache-Control", "no-cache");
  head.headers.emplace_back("X-Accel-Buffering", "no");  // or nginx would hold events back
  exchange_->begin_stream(std::move(head));
}

void Generation::update(const StepUpdate& update) {
  step_ = update.step;
  total_steps_ = update.total_steps;
  estimated_seconds_ = update.estimated_seconds;
  estimated_at_ = Clock::now();
  has_images_ |= !update.images.empty();
  if (is_over()) return;
  if (request_.stream) {
    begin_stream();
    // A client that is behind does without: a newer one follows.
    if (request_.progress && !exchange_->is_behind()) {
      send(progress_event(step_, total_steps_, estimated_seconds_));
    }
    send_previews(update);
  }
  if (has_images_) send_images(update);
}

void Generation::send(std::string event) {
  last_sent_ = Clock::now();
  exchange_->send(std::move(event));
}

void Generation::send_previews(const StepUpdate& update) {
  if (update.previews.empty() || !previews_.takes(update.step, update.total_steps)) return;
  const size_t count = std::min(update.previews.size(), static_cast<size_t>(request_.images));
  for (size_t i = 0; i < count; ++i) {
    send(partial_image_event(words_, update.previews[i], static_cast<int>(i),
                             previews_.taken() - 1));
  }
}

void Generation::send_images(const StepUpdate& update) {
  const auto exchange = std::exchange(exchange_, nullptr);
  if (!request_.stream) {
    HttpAnswer answer{.headers = headers_};
    answer.body = images_json(words_, update.images, update.seed);
    exchange->answer(std::move(answer));
    return;
  }
  for (size_t i = 0; i < update.images.size(); ++i) {
    exchange->send(completed_event(words_, update.images[i], static_cast<int>(i), update.seed));
  }
  exchange->end_stream();
}

void Generation::fail(const ApiError& error) {
  if (is_over()) return;
  ApiError named = error;
  if (named.status == 400 && named.param.empty()) named.param = field_in(named.what(), request_);
  const auto exchange = std::exchange(exchange_, nullptr);
  if (!streams_) return exchange->answer(error_answer(named));
  exchange->send(error_event(error_json(named)));
  exchange->end_stream();
}

void Generation::keep_alive(Clock::time_point now) {
  if (is_over() || !streams_ || now - last_sent_ < kSilence || exchange_->is_behind()) return;
  send(heartbeat());
}

double Generation::remaining_share() const {
  if (total_steps_ <= 0) return 1;
  return std::clamp(1 - static_cast<double>(step_) / total_steps_, 0.0, 1.0);
}

std::optional<double> Generation::remaining_seconds(Clock::time_point now) const {
  if (!estimated_seconds_) return std::nullopt;
  return std::max(0.0,
                  *estimated_seconds_ - std::chrono::duration<double>(now - estimated_at_).count());
}

int Generation::preview_every(int usual_steps) const {
  return previews_.every(request_.steps > 0 ? request_.steps : usual_steps);
}

}  // namespace flux::front

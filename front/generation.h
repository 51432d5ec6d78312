#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "front/events.h"
#include "front/http.h"
#include "front/image_request.h"
#include "front/triton_client.h"
#include "front/waiting_line.h"

namespace flux::front {

/// One accepted request for images, until its client has the answer: what it asks for, and how it
/// is answered, as a whole or as a stream.
class Generation {
 public:
  using Clock = std::chrono::steady_clock;

  Generation(ImageRequest request, const ImageWords& words, std::shared_ptr<Exchange> exchange);

  const ImageRequest& request() const { return request_; }
  /// Headers of the answer: how many were before it when it was accepted, and the seconds it would
  /// take.
  void set_outlook(size_t position, std::optional<double> seconds);

  /// Begins the stream of a request that asked for one, if that has not begun.
  void begin_stream();
  /// Passes on what the pipeline has sent.
  void update(const StepUpdate& update);
  /// Answers with an error unless it is answered.
  void fail(const ApiError& error);
  /// Lets go of a client that has left.
  void abandon() { exchange_.reset(); }
  /// Tells a client that has heard nothing for a while that its stream lives.
  void keep_alive(Clock::time_point now);

  /// Whether the client has its answer, or has left.
  bool is_over() const { return exchange_ == nullptr; }
  /// Whether the pipeline has made its images.
  bool has_images() const { return has_images_; }
  int step() const { return step_; }
  int total_steps() const { return total_steps_; }
  /// Steps still to do, of all; 1 before the first response.
  double remaining_share() const;
  /// As the server estimated it, less the time since; nothing where it does not know.
  std::optional<double> remaining_seconds(Clock::time_point now) const;
  int preview_every(int usual_steps) const;
  Clock::time_point arrived() const { return arrived_; }

  // Where it stands; of the line that it is in.
  WaitingLine<std::shared_ptr<Generation>>::Place place = {};
  std::shared_ptr<RunningCall> call;  // once it runs
  std::shared_ptr<void> deadline;     // timer
  std::optional<Clock::time_point> ends_at;

 private:
  void send(std::string event);
  void send_previews(const StepUpdate& update);
  void send_images(const StepUpdate& update);

  const ImageRequest request_;
  const ImageWords words_;
  std::shared_ptr<Exchange> exchange_;
  std::vector<std::pair<std::string, std::string>> headers_;
  PreviewChoice previews_;
  const Clock::time_point arrived_ = Clock::now();
  Clock::time_point last_sent_ = arrived_;
  Clock::time_point estimated_at_ = arrived_;
  std::optional<double> estimated_seconds_;
  int step_ = 0;
  int total_steps_ = 0;
  bool streams_ = false;  // the head of the stream is sent
  bool has_images_ = false;
};

}  // namespace flux::front

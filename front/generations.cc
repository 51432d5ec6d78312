#include "front/generations.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>

namespace flux::front {
namespace {

using nlohmann::ordered_json;

constexpr int kDefaultPriority = 5;  // that of the served pipelines
constexpr double kLongestRetry = 600;

ordered_json rounded(std::optional<double> seconds) {
  return seconds ? ordered_json(std::round(*seconds * 1000) / 1000) : ordered_json();
}

int priority_of(const ImageRequest& request) {
  return request.priority > 0 ? request.priority : kDefaultPriority;
}

}  // namespace

Generations::Generations(HttpServer& server, TritonClient& triton, size_t max_waiting)
    : server_(server), triton_(triton), max_waiting_(max_waiting) {}

bool Generations::has_room(const PipelineInfo& pipeline) const {
  const auto found = lines_.find(pipeline.model);
  if (found == lines_.end()) return true;
  const Line& line = found->second;
  const bool begins =
      line.waiting.size() == 0 && line.running.size() < static_cast<size_t>(pipeline.instances);
  return begins || line.waiting.size() < max_waiting_;
}

int Generations::retry_after(const std::string& model) const {
  const auto found = lines_.find(model);
  const double seconds = found == lines_.end() ? 1 : found->second.rate.seconds_each().value_or(1);
  return static_cast<int>(std::ceil(std::clamp(seconds, 1.0, kLongestRetry)));
}

void Generations::add(const PipelineInfo& pipeline, ImageRequest request, double timeout,
                      const std::shared_ptr<Exchange>& exchange) {
  Line& line = lines_[pipeline.model];
  line.pipeline = pipeline;
  if (!has_room(pipeline)) {
    throw ApiError(429,
                   fmt::format("{} requests wait already, as many as may: try again in {} s",
                               line.waiting.size(), retry_after(pipeline.model)),
                   {}, "rate_limit_exceeded");
  }
  const ImageWords words = words_of(request, pipeline.default_size, std::time(nullptr));
  const auto entry = std::make_shared<Generation>(std::move(request), words, exchange);
  const int priority = priority_of(entry->request());
  const bool begins =
      line.waiting.size() == 0 && line.running.size() < static_cast<size_t>(pipeline.instances);
  const size_t position = begins ? 0 : line.waiting.position_of_next(priority) + 1;
  entry->set_outlook(position, estimate(line, position, Clock::now()));
  const std::weak_ptr<Generation> weak = entry;
  exchange->when_gone([this, &line, weak] {
    const Entry gone = weak.lock();
    if (!gone || gone->is_over()) return;
    gone->abandon();
    stop(line, gone);
  });
  if (entry->is_over()) return;  // the client left before this
  if (timeout > 0) {
    entry->ends_at = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                        std::chrono::duration<double>(timeout));
    entry->deadline = server_.after(timeout, [this, &line, weak, timeout] {
      const Entry late = weak.lock();
      if (!late || late->is_over()) return;
      late->fail(ApiError(503,
                          fmt::format("not done within the {} s of X-Request-Timeout", timeout), {},
                          "timeout"));
      stop(line, late);
    });
  }
  entry->place = line.waiting.add(priority, entry);
  begin_next(line);
  // One that begins at once waits for the server's word: it may refuse a value, with a status.
  if (!entry->call) entry->begin_stream();
}

void Generations::begin_next(Line& line) {
  while (line.running.size() < static_cast<size_t>(line.pipeline.instances)) {
    const auto entry = line.waiting.take_first();
    if (!entry) return;
    run(line, *entry);
  }
}

void Generations::run(Line& line, const Entry& entry) {
  line.running.insert(entry);
  line.rate.begin(Clock::now());
  PipelineCall call{.model = line.pipeline.model, .request = entry->request()};
  call.preview_every = entry->preview_every(line.usual_steps);
  if (entry->ends_at) {
    const auto left =
        std::chrono::duration_cast<std::chrono::microseconds>(*entry->ends_at - Clock::now());
    call.timeout_us = std::max<int64_t>(left.count(), 1);
  }
  TritonClient::Reports reports;
  reports.on_update = [this, &line, entry](const StepUpdate& update) {
    if (entry->request().steps == 0 && update.total_steps > 0) {
      line.usual_steps = update.total_steps;
    }
    entry->update(update);
    // Only the end of the call is still to come: the next one need not wait for that.
    if (entry->has_images()) release(line, entry);
  };
  reports.on_end = [this, &line, entry](const std::optional<ApiError>& error) {
    ended(line, entry, error);
  };
  entry->call = triton_.generate(call, std::move(reports));
}

void Generations::release(Line& line, const Entry& entry) {
  if (line.running.erase(entry) == 0) return;
  line.rate.end(Clock::now(), entry->has_images());
  entry->deadline.reset();
  begin_next(line);
}

void Generations::ended(Line& line, const Entry& entry, const std::optional<ApiError>& error) {
  entry->call.reset();
  entry->fail(error ? *error : ApiError(500, "the server ended the request without an image"));
  release(line, entry);
}

void Generations::stop(Line& line, const Entry& entry) {
  if (entry->call) {
    ++left_running_;
    entry->call->cancel();
  } else if (line.running.count(entry) == 0) {
    ++left_waiting_;
    line.waiting.remove(entry->place);
    entry->deadline.reset();
  }
}

void Generations::tick() {
  const Clock::time_point now = Clock::now();
  for (auto& [model, line] : lines_) {
    line.waiting.for_each([&](const Entry& entry) { entry->keep_alive(now); });
    for (const Entry& entry : line.running) entry->keep_alive(now);
  }
}

std::optional<double> Generations::seconds_until_running_end(const Line& line,
                                                             Clock::time_point now) const {
  // The server knows how they share the device; the last one to end is the end of all.
  double latest = 0;
  double shares = 0;
  bool known = true;
  for (const Entry& entry : line.running) {
    const auto seconds = entry->remaining_seconds(now);
    known = known && seconds;
    latest = std::max(latest, seconds.value_or(0));
    shares += entry->remaining_share();
  }
  if (known) return latest;
  const auto each = line.rate.seconds_each();
  return each ? std::optional(*each * shares) : std::nullopt;
}

std::optional<double> Generations::estimate(const Line& line, size_t position,
                                            Clock::time_point now) const {
  const auto each = line.rate.seconds_each();
  const auto running = seconds_until_running_end(line, now);
  if (!each || !running) return std::nullopt;
  return *running + *each * static_cast<double>(std::max<size_t>(position, 1));
}

std::map<std::string, Generations::Counts> Generations::counts() const {
  const Clock::time_point now = Clock::now();
  std::map<std::string, Counts> counts;
  for (const auto& [model, line] : lines_) {
    Counts& each = counts[line.pipeline.id];
    each.waiting = line.waiting.size();
    each.running = line.running.size();
    each.work_seconds = seconds_until_running_end(line, now).value_or(0) +
                        static_cast<double>(each.waiting) * line.rate.seconds_each().value_or(0);
  }
  return counts;
}

ordered_json Generations::as_json() const {
  const Clock::time_point now = Clock::now();
  ordered_json running = ordered_json::array();
  ordered_json waiting = ordered_json::array();
  const auto describe = [&](const Line& line, const Entry& entry) {
    return ordered_json{
        {"model", line.pipeline.id},
        {"priority", priority_of(entry->request())},
        {"images", entry->request().images},
        {"size", entry->request().size},
        {"seconds", rounded(std::chrono::duration<double>(now - entry->arrived()).count())}};
  };
  for (const auto& named : lines_) {
    const Line& line = named.second;
    for (const Entry& entry : line.running) {
      ordered_json each = describe(line, entry);
      each["step"] = entry->step();
      each["total_steps"] = entry->total_steps();
      each["estimated_seconds"] = rounded(entry->remaining_seconds(now));
      running.push_back(std::move(each));
    }
    size_t position = 0;
    line.waiting.for_each([&](const Entry& entry) {
      ordered_json each = describe(line, entry);
      each["position"] = ++position;
      each["estimated_seconds"] = rounded(estimate(line, position, now));
      waiting.push_back(std::move(each));
    });
  }
  return {{"running", std::move(running)}, {"waiting", std::move(waiting)}};
}

}  // namespace flux::front

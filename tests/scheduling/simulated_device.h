#pragma once

#include <algorithm>
#include <vector>

#include "scheduling/step_policy.h"

/// A device that takes a step at a time, of one image, in simulated time.
namespace flux::scheduling {

struct Arrival {
  double time;
  int steps;
  double step_seconds;
  int64_t tokens;
};
struct Finished {
  double end;
  double latency;
  double slowdown;
};

/// What becomes of all images, in the order in which they end.
inline std::vector<Finished> simulate(const std::vector<Arrival>& arrivals, StepPolicy policy,
                                      double bound) {
  struct Image {
    const Arrival* arrival;
    uint64_t order;
    int left;
  };
  std::vector<Image> images;
  std::vector<Finished> finished;
  size_t next = 0;
  double now = 0;
  while (next < arrivals.size() || !images.empty()) {
    if (images.empty()) now = std::max(now, arrivals[next].time);
    for (; next < arrivals.size() && arrivals[next].time <= now; ++next) {
      images.push_back({&arrivals[next], next, arrivals[next].steps});
    }
    std::vector<StepCandidate> candidates;
    for (const Image& image : images) {
      const Arrival& arrival = *image.arrival;
      candidates.push_back({.priority = 1,
                            .order = image.order,
                            .waited = now - arrival.time,
                            .remaining = image.left * arrival.step_seconds,
                            .alone = arrival.steps * arrival.step_seconds,
                            .tokens = arrival.tokens});
    }
    const size_t chosen = choose_step(candidates, policy, bound, 0).front();
    Image& image = images[chosen];
    now += image.arrival->step_seconds;
    if (--image.left > 0) continue;
    const double latency = now - image.arrival->time;
    finished.push_back({now, latency, latency / candidates[chosen].alone});
    images.erase(images.begin() + static_cast<std::ptrdiff_t>(chosen));
  }
  return finished;
}

}  // namespace flux::scheduling

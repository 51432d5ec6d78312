#include "cli/drain.h"

#include <fmt/format.h>

#include <cstdlib>
#include <sstream>

namespace flux::cli {
namespace {

/// How long the server may take to answer before it is told to stop.
constexpr int kMostSeconds = 5;

}  // namespace

using std::chrono::steady_clock;

Drain::Drain(const Endpoints& endpoints) : endpoints_(endpoints) {
  if (!endpoints.http || !endpoints.metrics) return;
  // Without metrics nothing tells what is in flight.
  if (!Connection(endpoints.address, *endpoints.metrics).is_open()) return;
  done_ = idle();
  if (done_) return;
  connection_.emplace(endpoints.address, *endpoints.http);
  // A connection counts once the server has taken it, which its answer shows; a busy one may take
  // seconds.
  bool taken = connection_->send(fmt::format("GET /v2/health/live HTTP/1.1\r\nHost: {}:{}\r\n\r\n",
                                             endpoints.address, *endpoints.http));
  for (int seconds = 0; taken && connection_->receive(1).empty(); ++seconds) {
    taken = seconds < kMostSeconds;
  }
  held_ = taken;
  if (!taken) connection_.reset();
}

void Drain::poll(const std::function<bool()>& gave_up) {
  constexpr std::chrono::milliseconds kPause(100);
  if (!connection_ || steady_clock::now() < next_) return;
  const bool seen_idle = idle();
  const bool over = gave_up();
  done_ = seen_idle && !over;
  if (done_ || over) connection_.reset();
  next_ = steady_clock::now() + kPause;
}

bool Drain::idle() const {
  const auto answer = http_get(endpoints_.address, *endpoints_.metrics, "/metrics");
  if (!answer) return false;
  double count = 0;
  std::istringstream lines(answer->body);
  for (std::string line; std::getline(lines, line);) {
    // The pipelines have requests as long as their stages have some.
    const bool counts = line.starts_with("flux_requests_in_flight{") ||
                        line.starts_with("nv_inference_pending_request_count{");
    const size_t value = line.rfind(' ');
    if (counts && value != line.npos) count += std::strtod(line.c_str() + value, nullptr);
  }
  return count == 0;
}

}  // namespace flux::cli

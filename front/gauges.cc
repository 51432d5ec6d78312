#include "front/gauges.h"

#include <fmt/format.h>

namespace flux::front {
namespace {

void begin(std::string& text, const char* name, const char* type, const char* help) {
  text += fmt::format("# HELP {0} {2}\n# TYPE {0} {1}\n", name, type, help);
}

void add(std::string& text, const char* name, const char* type, const char* help, double value) {
  begin(text, name, type, help);
  text += fmt::format("{} {}\n", name, value);
}

}  // namespace

std::string gauges_text(const Generations& generations, const HttpCounts& counts,
                        const Catalog& catalog) {
  std::string text;
  std::map<std::string, Generations::Counts> lines = generations.counts();
  // A pipeline that nobody has asked yet has gauges, too: an autoscaler needs their zero.
  for (const PipelineInfo& pipeline : catalog.pipelines()) lines.try_emplace(pipeline.id);
  const auto add_each = [&](const char* name, const char* help, auto value) {
    begin(text, name, "gauge", help);
    for (const auto& [id, line] : lines) {
      text += fmt::format("{}{{model=\"{}\"}} {}\n", name, id, value(line));
    }
  };
  add_each("flux_front_requests_waiting", "Requests that wait in the front.",
           [](const Generations::Counts& line) { return line.waiting; });
  add_each("flux_front_requests_running", "Requests that the server is generating.",
           [](const Generations::Counts& line) { return line.running; });
  add_each("flux_front_estimated_work_seconds", "Seconds until all accepted requests are done.",
           [](const Generations::Counts& line) { return line.work_seconds; });
  add(text, "flux_front_connections", "gauge", "Open connections of clients.",
      static_cast<double>(counts.connections));
  add(text, "flux_front_connections_refused_total", "counter", "Connections beyond the limit.",
      static_cast<double>(counts.refused));
  add(text, "flux_front_slow_readers_total", "counter",
      "Connections closed because nothing was taken.", static_cast<double>(counts.slow_readers));
  begin(text, "flux_front_stopped_total", "counter",
        "Requests whose client left or whose time was over, where they were.");
  text +=
      fmt::format("flux_front_stopped_total{{while=\"waiting\"}} {}\n", generations.left_waiting());
  text +=
      fmt::format("flux_front_stopped_total{{while=\"running\"}} {}\n", generations.left_running());
  begin(text, "flux_front_answers_total", "counter",
        "Answers by status; a stream counts when it begins.");
  for (const auto& [status, number] : counts.answers) {
    text += fmt::format("flux_front_answers_total{{status=\"{}\"}} {}\n", status, number);
  }
  return text;
}

}  // namespace flux::front

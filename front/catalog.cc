#include "front/catalog.h"

#include <fmt/format.h>

#include <algorithm>

#include "front/api_error.h"
#include "support/utf8.h"

namespace flux::front {
namespace {

std::string names_of(const std::vector<PipelineInfo>& pipelines) {
  std::string names;
  for (const PipelineInfo& pipeline : pipelines) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ", pipeline.id);
  }
  return names;
}

bool has_name(const PipelineInfo& pipeline, std::string_view name) {
  return name == pipeline.id || name == pipeline.model || name == pipeline.prefix + "bls";
}

}  // namespace

Catalog::Catalog(TritonClient& triton, std::string address)
    : triton_(triton), address_(std::move(address)) {}

void Catalog::refresh(std::function<void()> done) {
  if (done) waiting_.push_back(std::move(done));
  if (std::exchange(asks_, true)) return;
  triton_.list_pipelines([this](std::optional<std::vector<PipelineInfo>> list) {
    asks_ = false;
    reachable_ = list.has_value();
    if (list) pipelines_ = std::move(*list);
    for (const auto& each : std::exchange(waiting_, {})) each();
  });
}

const PipelineInfo& Catalog::choose(const std::string& name) const {
  // A server that does not answer just now may be busy: what it was asked then, it answers later.
  if (!reachable_ && pipelines_.empty()) {
    throw ApiError(503, fmt::format("the server at {} does not answer", address_), {},
                   "unavailable");
  }
  for (const PipelineInfo& pipeline : pipelines_) {
    if (name.empty() ? !pipeline.ready : !has_name(pipeline, name)) continue;
    if (pipeline.ready) return pipeline;
    throw ApiError(503, fmt::format("model {} is not loaded with all its stages", pipeline.id),
                   "model", "unavailable");
  }
  if (name.empty()) {
    throw ApiError(503, "no pipeline (a model bls_stream and its stages) is loaded", {},
                   "unavailable");
  }
  throw ApiError(404,
                 fmt::format("the model '{}' does not exist; this server has: {}", excerpt(name),
                             pipelines_.empty() ? "none" : names_of(pipelines_)),
                 "model", "model_not_found");
}

}  // namespace flux::front

#include "front/service.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <ctime>
#include <nlohmann/json.hpp>

#include "front/edit_form.h"
#include "front/gauges.h"
#include "front/page.h"
#include "support/utf8.h"

namespace flux::front {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kModelsPath = "/v1/models/";
constexpr std::string_view kEditsPath = "/v1/images/edits";
constexpr double kTickSeconds = 1;
constexpr double kLongestTimeout = 86400;

HttpAnswer error_answer(const ApiError& error) {
  return {.status = error.status, .body = error_json(error)};
}

HttpAnswer json_answer(const ordered_json& body, int status = 200) {
  return {.status = status, .body = body.dump()};
}

/// X-Request-Timeout in seconds; 0: none.
double timeout_of(const std::string& text) {
  if (text.empty()) return 0;
  double seconds = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, seconds);
  if (error != std::errc() || stop != end || !(seconds > 0) || seconds > kLongestTimeout) {
    throw ApiError(400,
                   fmt::format("X-Request-Timeout is '{}': must be seconds, more than 0 and at "
                               "most {}",
                               excerpt(text), kLongestTimeout));
  }
  return seconds;
}

ordered_json describe(const PipelineInfo& pipeline) {
  // When the checkpoint was made is not known.
  ordered_json model = {
      {"id", pipeline.id}, {"object", "model"}, {"created", 0}, {"owned_by", "flux-triton"}};
  // Beyond OpenAI's: what a page needs to offer just what the pipeline takes.
  if (!pipeline.default_size.empty()) model["default_size"] = pipeline.default_size;
  model["inputs"] = ordered_json::array();
  for (const auto& [name, type] : pipeline.inputs) model["inputs"].push_back(name);
  return model;
}

/// What lets pages of an allowed origin use the API; nothing for others.
std::vector<std::pair<std::string, std::string>> cors_headers(
    const std::vector<std::string>& allowed, const std::string& origin) {
  const bool is_allowed = std::any_of(allowed.begin(), allowed.end(), [&](const std::string& each) {
    return each == "*" || each == origin;
  });
  if (origin.empty() || !is_allowed) return {};
  return {
      {"Access-Control-Allow-Origin", origin},
      {"Access-Control-Allow-Methods", "GET, POST, OPTIONS"},
      {"Access-Control-Allow-Headers", "Authorization, Content-Type, X-API-Key, X-Request-Timeout"},
      {"Access-Control-Expose-Headers", "Retry-After, X-Estimated-Seconds, X-Queue-Position"},
      {"Vary", "Origin"}};
}

/// Whether a page of `origin` ("http://host:port") is the one that this front serves.
bool is_own_page(const std::string& origin, const std::string& host) {
  const size_t scheme = origin.find("://");
  return scheme != origin.npos && origin.substr(scheme + 3) == host;
}

}  // namespace

struct Service::Route {
  std::string_view path;
  std::string_view method;
  bool open;  // without a key
  void (Service::*answer)(const HttpRequest&, const Exchanged&);
};

const Service::Route Service::kRoutes[] = {
    {"/v1/images/generations", "POST", false, &Service::generate},
    {kEditsPath, "POST", false, &Service::edit},
    {"/v1/models", "GET", false, &Service::list_models},
    {kModelsPath, "GET", false, &Service::describe_model},  // and a name after it
    {"/health", "GET", true, &Service::tell_health},
    {"/metrics", "GET", false, &Service::tell_metrics},
    {"/queue", "GET", false, &Service::tell_queue},
    {"/", "GET", true, &Service::show_page},
};

Service::Service(HttpServer& server, TritonClient& triton, ServiceOptions options)
    : server_(server),
      options_(std::move(options)),
      catalog_(triton, options_.triton),
      generations_(server, triton, options_.max_waiting) {}

void Service::start() {
  catalog_.refresh();
  tick();
}

void Service::tick() {
  timer_ = server_.after(kTickSeconds, [this] {
    catalog_.refresh();
    generations_.tick();
    tick();
  });
}

const Service::Route* Service::find_route(const std::string& path) {
  for (const Route& route : kRoutes) {
    if (route.path == path && path != kModelsPath) return &route;
    if (route.path == kModelsPath && path.size() > kModelsPath.size() &&
        path.starts_with(kModelsPath)) {
      return &route;
    }
  }
  return nullptr;
}

/// Throws ApiError for a request that is refused whatever its body says.
void Service::check_head(const HttpRequest& head) const {
  const Route* route = find_route(head.path);
  if (route == nullptr) {
    throw ApiError(404,
                   fmt::format("there is no '{}' here; see /v1/models, /v1/images/generations, "
                               "/v1/images/edits, /health, /metrics, /queue and /",
                               excerpt(head.path)));
  }
  if (head.method == "OPTIONS") return;
  const bool fits =
      head.method == route->method || (head.method == "HEAD" && route->method == "GET");
  if (!fits) {
    throw ApiError(405, fmt::format("{} does not take {}: use {}", head.path, excerpt(head.method),
                                    route->method));
  }
  // A page of another site could otherwise let its visitors' browsers generate here.
  const bool allowed = head.origin.empty() || is_own_page(head.origin, head.host) ||
                       !cors_headers(options_.origins, head.origin).empty();
  if (!allowed && route->method == "POST") {
    throw ApiError(403,
                   fmt::format("pages of {} may not use this server; its operator can allow "
                               "them with --cors-origin",
                               excerpt(head.origin)),
                   {}, "origin_not_allowed");
  }
  if (!options_.keys.are_needed() || route->open) return;
  const std::string_view key = shown_key(head.authorization, head.api_key);
  if (key.empty()) {
    throw ApiError(401, "a key is needed: Authorization: Bearer KEY, or X-API-Key: KEY", {},
                   "invalid_api_key");
  }
  if (!options_.keys.has(key)) {
    throw ApiError(401, "the key is not known here", {}, "invalid_api_key");
  }
}

std::optional<HttpAnswer> Service::refuse(const HttpRequest& head) {
  try {
    check_head(head);
    return std::nullopt;
  } catch (const ApiError& error) {
    HttpAnswer answer = error_answer(error);
    const Route* route = find_route(head.path);
    if (error.status == 405) answer.headers.emplace_back("Allow", route->method);
    if (error.status == 401) answer.headers.emplace_back("WWW-Authenticate", "Bearer");
    return answer;
  }
}

void Service::handle(HttpRequest request, const Exchanged& exchange) {
  // Before the server has told what it has, at the start above all, nobody is turned away unasked.
  if (catalog_.pipelines().empty()) {
    return catalog_.refresh(
        [this, request = std::move(request), exchange] { route(request, exchange); });
  }
  route(request, exchange);
}

void Service::route(const HttpRequest& request, const Exchanged& exchange) {
  try {
    if (request.method == "OPTIONS") return exchange->answer({.status = 200});
    (this->*find_route(request.path)->answer)(request, exchange);
  } catch (const ApiError& error) {
    exchange->answer(error_answer(error));
  }
}

HttpAnswer Service::bad_request(int status, const std::string& message) {
  return error_answer(ApiError(status, message));
}

std::vector<std::pair<std::string, std::string>> Service::common_headers(
    const HttpRequest& request) {
  return cors_headers(options_.origins, request.origin);
}

bool Service::takes_upload(const HttpRequest& head) { return head.path == kEditsPath; }

void Service::add(const PipelineInfo& pipeline, ImageRequest images, double timeout,
                  const Exchanged& exchange) {
  try {
    generations_.add(pipeline, std::move(images), timeout, exchange);
  } catch (const ApiError& error) {
    HttpAnswer answer = error_answer(error);
    if (error.status == 429) {
      const int seconds = generations_.retry_after(pipeline.model);
      answer.headers.emplace_back("Retry-After", std::to_string(seconds));
    }
    exchange->answer(std::move(answer));
  }
}

void Service::generate(const HttpRequest& request, const Exchanged& exchange) {
  if (stopping_) throw ApiError(503, "the server is stopping", {}, "unavailable");
  const double timeout = timeout_of(request.request_timeout);
  const nlohmann::json body = parse_body(request.body);
  const PipelineInfo pipeline = catalog_.choose(model_of(body));
  add(pipeline, read_image_request(body, pipeline), timeout, exchange);
}

void Service::edit(const HttpRequest& request, const Exchanged& exchange) {
  if (stopping_) throw ApiError(503, "the server is stopping", {}, "unavailable");
  const double timeout = timeout_of(request.request_timeout);
  EditForm form = parse_edit_form(request.content_type, request.body);
  const PipelineInfo pipeline = catalog_.choose(model_of(form));
  ImageRequest images = read_edit_request(std::move(form), pipeline);
  images.room = request.room;
  add(pipeline, std::move(images), timeout, exchange);
}

void Service::list_models(const HttpRequest&, const Exchanged& exchange) {
  ordered_json list = ordered_json::array();
  for (const PipelineInfo& pipeline : catalog_.pipelines()) {
    if (pipeline.ready) list.push_back(describe(pipeline));
  }
  exchange->answer(json_answer({{"object", "list"}, {"data", std::move(list)}}));
}

void Service::describe_model(const HttpRequest& request, const Exchanged& exchange) {
  exchange->answer(json_answer(describe(catalog_.choose(request.path.substr(kModelsPath.size())))));
}

void Service::tell_health(const HttpRequest&, const Exchanged& exchange) {
  catalog_.refresh([this, exchange] {
    const auto& pipelines = catalog_.pipelines();
    std::string status = "ready";
    const auto is_ready = [](const PipelineInfo& pipeline) { return pipeline.ready; };
    const auto takes = [this](const PipelineInfo& pipeline) {
      return pipeline.ready && generations_.has_room(pipeline);
    };
    if (std::none_of(pipelines.begin(), pipelines.end(), takes)) status = "all places are taken";
    if (std::none_of(pipelines.begin(), pipelines.end(), is_ready))
      status = "no pipeline is loaded";
    if (!catalog_.is_reachable()) status = "Triton does not answer";
    if (stopping_) status = "stopping";
    exchange->answer(json_answer({{"status", status}}, status == "ready" ? 200 : 503));
  });
}

void Service::tell_metrics(const HttpRequest&, const Exchanged& exchange) {
  constexpr const char* kType = "text/plain; version=0.0.4; charset=utf-8";
  if (options_.metrics_host.empty()) {
    return exchange->answer({.type = kType, .body = own_metrics()});
  }
  server_.fetch(options_.metrics_host, options_.metrics_port, "/metrics",
                [this, exchange](const std::optional<std::string>& triton) {
                  exchange->answer({.type = kType, .body = own_metrics() + triton.value_or("")});
                });
}

std::string Service::own_metrics() const {
  return gauges_text(generations_, server_.counts(), catalog_);
}

void Service::tell_queue(const HttpRequest&, const Exchanged& exchange) {
  exchange->answer(json_answer(generations_.as_json()));
}

void Service::show_page(const HttpRequest&, const Exchanged& exchange) {
  HttpAnswer answer{.type = "text/html; charset=utf-8", .body = std::string(page_html())};
  answer.headers.emplace_back("Content-Security-Policy", page_policy());
  answer.headers.emplace_back("Referrer-Policy", "no-referrer");
  answer.headers.emplace_back("X-Content-Type-Options", "nosniff");
  answer.headers.emplace_back("Cache-Control", "no-cache");
  exchange->answer(std::move(answer));
}

}  // namespace flux::front

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "front/api_keys.h"
#include "front/catalog.h"
#include "front/generations.h"
#include "front/http.h"
#include "front/http_server.h"
#include "front/triton_client.h"

namespace flux::front {

struct ServiceOptions {
  std::string triton;        // HOST:PORT of gRPC
  std::string metrics_host;  // of Triton's metrics; empty: none
  int metrics_port = 0;
  ApiKeys keys;
  std::vector<std::string> origins;  // whose pages may use the API; "*": all
  size_t max_waiting = 0;
};

/// What the front answers: its paths, who may ask, and what it hands on.
class Service final : public HttpHandler {
 public:
  Service(HttpServer& server, TritonClient& triton, ServiceOptions options);

  /// Begins what happens by itself: the list of pipelines stays fresh, quiet streams alive.
  void start();
  /// Takes no more requests for images; those that were accepted are answered.
  void stop() { stopping_ = true; }

  std::optional<HttpAnswer> refuse(const HttpRequest& head) override;
  bool takes_upload(const HttpRequest& head) override;
  void handle(HttpRequest request, const std::shared_ptr<Exchange>& exchange) override;
  HttpAnswer bad_request(int status, const std::string& message) override;
  std::vector<std::pair<std::string, std::string>> common_headers(
      const HttpRequest& request) override;

 private:
  using Exchanged = std::shared_ptr<Exchange>;
  struct Route;
  static const Route kRoutes[];

  static const Route* find_route(const std::string& path);
  void check_head(const HttpRequest& head) const;
  void tick();
  /// Answers a request whose head is good.
  void route(const HttpRequest& request, const Exchanged& exchange);

  /// Hands a request for images on; `timeout` in seconds.
  void add(const PipelineInfo& pipeline, ImageRequest images, double timeout,
           const Exchanged& exchange);
  void generate(const HttpRequest& request, const Exchanged& exchange);
  void edit(const HttpRequest& request, const Exchanged& exchange);
  void list_models(const HttpRequest& request, const Exchanged& exchange);
  void describe_model(const HttpRequest& request, const Exchanged& exchange);
  void tell_health(const HttpRequest& request, const Exchanged& exchange);
  void tell_metrics(const HttpRequest& request, const Exchanged& exchange);
  void tell_queue(const HttpRequest& request, const Exchanged& exchange);
  void show_page(const HttpRequest& request, const Exchanged& exchange);

  std::string own_metrics() const;

  HttpServer& server_;
  const ServiceOptions options_;
  Catalog catalog_;
  Generations generations_;
  std::shared_ptr<void> timer_;
  bool stopping_ = false;
};

}  // namespace flux::front

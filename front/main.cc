#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <string>
#include <vector>

#include "cli/option_values.h"
#include "front/http_server.h"
#include "front/service.h"
#include "front/triton_client.h"
#include "support/error.h"
#include "support/log.h"
#include "support/stop_signals.h"

namespace flux::front {
namespace {

enum ExitCode { kDone = 0, kFailed = 1, kWrongUsage = 2, kInterrupted = 130 };

struct Options {
  std::string triton;
  std::string metrics;
  std::string address = "127.0.0.1";
  int64_t port = 8080;
  std::string api_key_file;
  std::vector<std::string> origins;
  int64_t max_waiting = 256;
  int64_t max_connections = static_cast<int64_t>(HttpLimits{}.connections);
  int64_t max_body = static_cast<int64_t>(HttpLimits{}.body_bytes);
  int64_t max_upload = static_cast<int64_t>(HttpLimits{}.upload_bytes);
  int64_t write_timeout = HttpLimits{}.write_seconds;
  int64_t idle_timeout = HttpLimits{}.idle_seconds;
};

struct HostAndPort {
  std::string host;
  int port = 0;
};

/// Splits HOST:PORT. Throws kInvalidArgument, naming the option.
HostAndPort parse_host_and_port(const char* option, const std::string& text) {
  const size_t colon = text.rfind(':');
  HostAndPort parsed;
  if (colon != text.npos && colon > 0) {
    parsed.host = text.substr(0, colon);
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + colon + 1, end, parsed.port);
    if (stop != end || error != std::errc()) parsed.port = 0;
  }
  check(parsed.port >= 1 && parsed.port <= 65535, ErrorCode::kInvalidArgument,
        "{} {}: must be HOST:PORT, for example 127.0.0.1:8001", option, text);
  return parsed;
}

void add_network_options(CLI::App& app, Options& options) {
  app.add_option("--triton", options.triton, "where Triton answers gRPC")
      ->type_name("HOST:PORT")
      ->required();
  app.add_option("--metrics", options.metrics,
                 "where Triton's metrics are, which /metrics then has, too")
      ->type_name("HOST:PORT");
  app.add_option("--address", options.address,
                 "where to listen; 0.0.0.0: for everybody who can reach this machine")
      ->type_name("ADDRESS")
      ->capture_default_str();
  app.add_option("--port", options.port, "where to listen; 0: any that is free")
      ->transform(cli::whole_number(0, 65535))
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--api-key-file", options.api_key_file,
                 "keys, one a line, of which clients must show one: Authorization: Bearer KEY, or "
                 "X-API-Key: KEY")
      ->type_name("FILE");
  app.add_option("--cors-origin", options.origins,
                 "origin whose pages may use the API, for example https://example.org; *: any")
      ->type_name("ORIGIN");
}

void add_limit_options(CLI::App& app, Options& options) {
  const auto add = [&](const char* name, int64_t& value, int64_t low, int64_t high,
                       const char* what) {
    app.add_option(name, value, what)
        ->transform(cli::whole_number(low, high))
        ->type_name("N")
        ->capture_default_str();
  };
  add("--max-waiting", options.max_waiting, 0, 100000,
      "requests that may wait for each pipeline; further ones get 429");
  add("--max-connections", options.max_connections, 1, 100000, "open connections");
  add("--max-body", options.max_body, 1024, int64_t{1} << 30, "bytes of a request's body");
  add("--max-upload", options.max_upload, 1024, int64_t{1} << 30,
      "bytes of the body of a request with images");
  add("--write-timeout", options.write_timeout, 1, 3600,
      "seconds in which a client must take something of its answer");
  add("--idle-timeout", options.idle_timeout, 1, 3600, "seconds between requests of a connection");
}

/// Every connection is a descriptor.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

ServiceOptions service_options(const Options& options) {
  ServiceOptions made;
  made.triton = options.triton;
  parse_host_and_port("--triton", options.triton);
  if (!options.metrics.empty()) {
    const HostAndPort metrics = parse_host_and_port("--metrics", options.metrics);
    made.metrics_host = metrics.host;
    made.metrics_port = metrics.port;
  }
  if (!options.api_key_file.empty()) made.keys = ApiKeys(options.api_key_file);
  made.origins = options.origins;
  made.max_waiting = static_cast<size_t>(options.max_waiting);
  return made;
}

HttpLimits limits_of(const Options& options) {
  HttpLimits limits;
  limits.connections = static_cast<size_t>(options.max_connections);
  limits.body_bytes = static_cast<size_t>(options.max_body);
  limits.upload_bytes = static_cast<size_t>(options.max_upload);
  limits.write_seconds = static_cast<int>(options.write_timeout);
  limits.idle_seconds = static_cast<int>(options.idle_timeout);
  return limits;
}

int run(const Options& options) {
  ServiceOptions of_service = service_options(options);
  raise_descriptor_limit();
  std::signal(SIGPIPE, SIG_IGN);
  HttpServer server(options.address, static_cast<int>(options.port), limits_of(options));
  TritonClient triton(options.triton,
                      [&server](std::function<void()> work) { server.post(std::move(work)); });
  const bool open = !of_service.keys.are_needed() && options.address != "127.0.0.1";
  if (open) {
    log_warning("listens on {} without --api-key-file: everybody who reaches it can generate",
                options.address);
  }
  Service service(server, triton, std::move(of_service));
  service.start();
  StopRequests requests;
  int stops = 0;
  server.on_signal([&] {
    const int before = stops;
    stops = requests.add();
    if (stops == before) return;
    if (stops > 1) return server.abandon();
    service.stop();
    server.stop();
  });
  std::printf("listening on http://%s:%d\n", options.address.c_str(), server.port());
  std::fflush(stdout);
  server.run(service);
  return stops > 1 ? kInterrupted : kDone;
}

int guarded_main(int argc, char** argv) {
  Options options;
  CLI::App app("Answers OpenAI's images API over HTTP with the pipelines of a Triton server.",
               "flux-triton front");
  app.set_version_flag("--version", "flux-triton-front " FLUX_VERSION);
  add_network_options(app, options);
  add_limit_options(app, options);
  app.footer("Example:\n  flux-triton front --triton 127.0.0.1:8001 --port 8080");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) return app.exit(error);
    log(LogLevel::kError, std::string(error.what()) + "; see --help");
    return kWrongUsage;
  }
  try {
    return run(options);
  } catch (const Error& error) {
    log(LogLevel::kError, report_of(error));
    return error.code() == ErrorCode::kInvalidArgument ? kWrongUsage : kFailed;
  } catch (const std::exception& error) {
    log(LogLevel::kError, error.what());
    return kFailed;
  }
}

}  // namespace
}  // namespace flux::front

int main(int argc, char** argv) {
  flux::set_log_sink([](flux::LogLevel level, std::string_view message) {
    constexpr const char* kKinds[] = {"info", "warning", "error"};
    fmt::print(stderr, "flux-triton: {}: {}\n", kKinds[static_cast<size_t>(level)], message);
  });
  return flux::front::guarded_main(argc, argv);
}

#pragma once

#include <boost/asio/io_context.hpp>
#include <functional>
#include <optional>
#include <string>

namespace flux::front {

/// Asks HOST:PORT for `path`; see HttpServer::fetch().
void start_http_fetch(boost::asio::io_context& io, const std::string& host, int port,
                      const std::string& path,
                      std::function<void(std::optional<std::string>)> done);

}  // namespace flux::front

#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "flux/request.h"

namespace flux {
struct RequestField;
}

namespace flux::cli {

/// What the options of a command say about its requests.
struct RequestOptions {
  Request shared;  // the numbers: the same in all rows
  /// The texts, by the name of their field: none, one for all rows, or one for each row.
  std::map<std::string_view, std::vector<std::string>> texts;
  std::string image;  // files; empty: none
  std::string mask;
};

/// Adds an option for every request field. `options` must live as long as the command.
void add_request_options(CLI::App& command, RequestOptions& options);

/// Adds the option of one integer field, which fills `value`.
CLI::Option* add_integer_option(CLI::App& command, const RequestField& field,
                                std::optional<int64_t>& value);

/// Adds --lora, which adds an adapter to `request`; the help says that it is `of` these.
void add_adapter_option(CLI::App& command, Request& request, std::string_view of = "all images");

/// Adds --image, --mask and --strength, for the same image in all rows. Files are read by
/// read_images().
void add_image_options(CLI::App& command, RequestOptions& options);
/// Reads the files of --image and --mask into `options.shared`. Throws as read_image().
void read_images(RequestOptions& options);

/// One request for each prompt. Throws UsageError when the numbers of texts do not match.
std::vector<Request> make_requests(const RequestOptions& options);

}  // namespace flux::cli

#pragma once

#include <string_view>

namespace flux::front {

/// page/index.html with its style and script in it, embedded at build time.
std::string_view page_html();

/// The Content-Security-Policy that it is sent with: it names the style and the script by their
/// hashes.
std::string_view page_policy();

}  // namespace flux::front

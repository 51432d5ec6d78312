#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace flux::front {

/// A field of a form. Both texts are of the body that was parsed.
struct FormPart {
  std::string name;
  bool is_file = false;  // it has a file name, which may be empty
  std::string_view content;
};

inline constexpr size_t kMaxFormParts = 64;
inline constexpr size_t kMaxPartHeadBytes = 4096;

/// Whether a Content-Type is that of a form.
bool is_multipart(std::string_view content_type);

/// The parts of a multipart/form-data body (RFC 7578, RFC 2046), in order; nothing is copied but
/// names. Each part needs a name. At most kMaxFormParts, with heads of kMaxPartHeadBytes. Throws
/// ApiError (400), saying what is wrong, for anything else. `body` must outlive the result.
///
/// Own code, because no library of Debian 12 fits: Beast has none, libmicrohttpd's belongs to its
/// own connections, Poco's is pulled from a stream and brings its network library.
std::vector<FormPart> parse_multipart(std::string_view content_type, std::string_view body);

}  // namespace flux::front

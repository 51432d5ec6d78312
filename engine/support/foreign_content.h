#pragma once

#include <string_view>

namespace flux {

/// What the content of a file is that stands where a checkpoint's file belongs, and what to do:
/// "is a git LFS pointer, not the file itself: ...". `content` is all of it or its beginning.
/// Empty: nothing that is known.
std::string_view foreign_content(std::string_view content);

}  // namespace flux

#include "support/foreign_content.h"

#include <algorithm>
#include <string>

#include "support/utf8.h"

namespace flux {

std::string_view foreign_content(std::string_view content) {
  constexpr size_t kLooked = 512;
  std::string start = lower_case(content.substr(0, kLooked));
  start.erase(0, std::min(start.size(), start.find_first_not_of(" \t\r\n")));
  if (start.starts_with("version https://git-lfs")) {
    return "is a git LFS pointer, not the file itself: run `git lfs pull` where it was cloned, or "
           "download the file";
  }
  if (start.starts_with("access to model") || start.starts_with("access denied") ||
      start.starts_with("invalid username or password")) {
    return "holds the answer of a site that refused the download: accept the model's licence "
           "there, then download the file again with your access token";
  }
  if (start.starts_with("<!doctype html") || start.starts_with("<html")) {
    return "is a web page, not the file itself: download the file by its address, or with your "
           "access token where the model asks for one";
  }
  if (start.starts_with("entry not found") || start.starts_with("repository not found") ||
      start.starts_with("not found")) {
    return "holds the answer of a site that does not have the file: check its address and download "
           "it again";
  }
  if (start.starts_with("gguf")) return "is a GGUF file: use one in the safetensors format";
  if (start.starts_with(std::string_view("pk\x03\x04", 4)) || start.starts_with("\x80\x02")) {
    return "is a pickle file of torch: convert it to safetensors";
  }
  return {};
}

}  // namespace flux

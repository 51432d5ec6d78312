#pragma once

#include <filesystem>
#include <optional>

namespace flux {

/// The kinds of image files that are written.
enum class ImageFormat { kPng, kJpeg, kWebp };

/// The format of a file by its name's ending, in capitals or not: .png, .jpg, .jpeg or .webp.
/// Nothing for another ending.
std::optional<ImageFormat> format_of_file(const std::filesystem::path& file);

}  // namespace flux

#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string_view>

namespace flux {

/// Told how many more bytes are written, again and again during a copy; throws to stop it.
using CopyObserver = std::function<void(int64_t bytes)>;

/// Copies a regular file's content and flushes it to the disk. `target` must not exist; its
/// permissions come from the umask. Throws kUnavailable (a full disk, say) and kInvalidArgument for
/// a source that cannot be read or changes meanwhile; what is written by then stays.
void copy_file_content(const std::filesystem::path& source, const std::filesystem::path& target,
                       const CopyObserver& observer);

/// Writes a new file and flushes it to the disk. Throws kUnavailable.
void write_new_file(const std::filesystem::path& target, std::string_view text);

/// Makes `target` a hard link to the file that `source` is, or leads to. Throws kUnavailable naming
/// the other ways (--weights) when the file system cannot do that.
void hard_link_file(const std::filesystem::path& source, const std::filesystem::path& target);

/// Makes `target` a directory like `source`: directories are made, symbolic links copied, and files
/// linked, or copied where the file system cannot do that. Throws kUnavailable.
void link_tree(const std::filesystem::path& source, const std::filesystem::path& target);

}  // namespace flux

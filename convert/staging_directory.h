#pragma once

#include <filesystem>

namespace flux {

/// The treatment of a target that exists already.
enum class Existing { kRefuse, kReplace };

/// A directory that appears under its name only when it is complete: filled beside it, then put in
/// place by one rename. Without commit() nothing is left.
class StagingDirectory {
 public:
  /// `target`: absolute, its parent a directory. Throws kUnavailable when the parent cannot be
  /// written.
  explicit StagingDirectory(std::filesystem::path target);
  /// Removes what is not in place, an old target that was replaced included.
  ~StagingDirectory();
  StagingDirectory(const StagingDirectory&) = delete;
  StagingDirectory& operator=(const StagingDirectory&) = delete;

  /// The directory for the content, on the file system of the target's parent.
  const std::filesystem::path& path() const { return content_; }

  /// Flushes the directories to the disk and puts the content in place; an old target is swapped
  /// out in the same instant where the system can do that. Throws kInvalidArgument when there is a
  /// target and it is not to be replaced, kUnavailable for any other failure; the old target is
  /// then where it was.
  void commit(Existing existing);

 private:
  void put_in_place() const;
  void exchange() const;

  std::filesystem::path target_;
  std::filesystem::path holder_;   // beside target_; gone at the end
  std::filesystem::path content_;  // in holder_
};

}  // namespace flux

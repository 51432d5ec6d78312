#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

/// What a server sees of a repository before it loads a model.
namespace flux {

/// The number of a version's directory; 0 for a name that is none.
int64_t version_of(std::string_view name);

/// The directory of the version of a model that a server takes by default: the highest number; 1
/// where there is none.
std::filesystem::path version_directory(const std::filesystem::path& model);

/// The text of a config.pbtxt. Throws kNotFound or kInvalidArgument, saying what to do, for one
/// that is missing or is no text that a server could read.
std::string read_model_config(const std::filesystem::path& model);

/// Checks a model that `convert` wrote, as far as a server could not load it, or would take
/// another version of it than the commands do: its config.pbtxt can be read and has no
/// version_policy, and its versions have numbers. Throws as read_model_config() does.
void check_model_directory(const std::filesystem::path& model);

/// Checks that a server which loads all of a repository finds what it needs: that every checkpoint
/// has kModelNames, as check_model_directory() wants them and those it may lack where they are
/// there, and that no other directory is taken for a model. Throws as check_model_directory() does.
void check_all_models(const std::filesystem::path& repository);

}  // namespace flux

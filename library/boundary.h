#pragma once

#include <exception>
#include <filesystem>
#include <functional>
#include <new>
#include <utility>

#include "support/error.h"
#include "support/filesystem_error.h"

/// The border of the library: what may cross it.
namespace flux {

/// Stands in for what a function of a caller threw while it passes through the engine.
struct CallerThrew {
  std::exception_ptr what;
};

/// A function of the caller's whose exceptions pass through the engine untouched. Stays empty where
/// `function` is.
template <typename R, typename... Args>
std::function<R(Args...)> from_caller(const std::function<R(Args...)>& function) {
  if (!function) return nullptr;
  return [&function](Args... args) -> R {
    try {
      return function(std::forward<Args>(args)...);
    } catch (...) {
      throw CallerThrew{std::current_exception()};
    }
  };
}

/// Runs `work`. Whatever else it throws becomes an Error.
template <typename Work>
auto with_named_exceptions(const Work& work) {
  try {
    return work();
  } catch (const Error&) {
    throw;
  } catch (const CallerThrew& caller) {
    std::rethrow_exception(caller.what);
  } catch (const std::filesystem::filesystem_error& error) {
    throw as_error(error);
  } catch (const std::bad_alloc&) {
    fail(ErrorCode::kUnavailable,
         "out of memory: use a smaller size, fewer images or the dtype bf16");
  } catch (const std::exception& error) {
    fail(ErrorCode::kInternal, "{}", error.what());
  }
}

}  // namespace flux

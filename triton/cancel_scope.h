#pragma once

#include <utility>

#include "runtime/context.h"

namespace flux::triton {

/// Sets a context's check for cancellation while it lives, so that the check cannot outlive what it
/// asks.
class CancelScope {
 public:
  CancelScope(Context& ctx, Context::CancelCheck cancelled) : ctx_(ctx) {
    ctx_.set_cancel_check(std::move(cancelled));
  }
  ~CancelScope() { ctx_.set_cancel_check({}); }
  CancelScope(const CancelScope&) = delete;
  CancelScope& operator=(const CancelScope&) = delete;

 private:
  Context& ctx_;
};

}  // namespace flux::triton

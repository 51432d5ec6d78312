#include "triton/agreement.h"

#include <algorithm>
#include <mutex>

#include "support/error.h"
#include "tensor/format.h"

namespace flux::triton {
namespace {

std::mutex g_mutex;
std::vector<const Agreement*> g_loaded;

}  // namespace

Agreement::Agreement(const ModelSettings& settings, const ModelIo& io)
    : server_(settings.server),
      prefix_(settings.kind.prefix),
      model_(settings.name),
      dtype_(settings.dtype),
      sizes_(io.shared_sizes) {
  const std::scoped_lock lock(g_mutex);
  for (const Agreement* other : g_loaded) {
    // While a model is loaded again, the one before it is still there.
    const bool related = other->server_ == server_ && other->prefix_ == prefix_;
    if (related && other->model_ != model_) check_with(*other);
  }
  g_loaded.push_back(this);
}

Agreement::~Agreement() {
  const std::scoped_lock lock(g_mutex);
  std::erase(g_loaded, this);
}

void Agreement::check_with(const Agreement& other) const {
  check(
      dtype_ == other.dtype_, ErrorCode::kInvalidArgument,
      "model '{}': parameter 'dtype' of config.pbtxt is {}, and model '{}' is loaded with {}: all "
      "models of a checkpoint must agree; unload the others first, or make the repository again "
      "with flux-triton convert --dtype",
      model_, dtype_, other.model_, other.dtype_);
  for (const auto& [name, size] : sizes_) {
    for (const auto& [other_name, other_size] : other.sizes_) {
      check(name != other_name || size == other_size, ErrorCode::kInvalidArgument,
            "model '{}': {} is {}, and that of model '{}' is {}: the models are of different "
            "checkpoints; make the repository again with flux-triton convert",
            model_, name, size, other.model_, other_size);
    }
  }
}

}  // namespace flux::triton

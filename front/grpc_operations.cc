#include "front/grpc_operations.h"

namespace flux::front {

void* OperationQueue::begin(std::shared_ptr<void> owner, grpc::ClientContext& context,
                            std::function<void(bool)> then) {
  auto operation =
      std::make_shared<Operation>(Operation{std::move(owner), context, std::move(then)});
  void* tag = operation.get();
  const std::lock_guard lock(mutex_);
  open_.emplace(tag, std::move(operation));
  return tag;
}

void OperationQueue::run() {
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
    std::shared_ptr<Operation> operation;
    {
      const std::lock_guard lock(mutex_);
      operation = open_.at(tag);
    }
    // It counts as open meanwhile: close() reaches the one that `then` begins.
    operation->then(ok);
    const std::lock_guard lock(mutex_);
    open_.erase(tag);
    if (closed_ && open_.empty() && !shut_) {
      shut_ = true;
      queue_.Shutdown();
    }
  }
}

void OperationQueue::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  for (const auto& [tag, operation] : open_) {
    operation->context.TryCancel();
  }
  if (open_.empty() && !shut_) {
    shut_ = true;
    queue_.Shutdown();
  }
}

}  // namespace flux::front

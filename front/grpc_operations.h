#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>

namespace flux::front {

/// gRPC's completion queue, with a function for each operation instead of a tag.
class OperationQueue {
 public:
  /// Returns the tag of an operation that is about to begin: `then` is called on the thread of
  /// run() when it has come back, with whether it succeeded. Meanwhile `owner` stays alive, and
  /// close() cancels `context`, which is the owner's.
  void* begin(std::shared_ptr<void> owner, grpc::ClientContext& context,
              std::function<void(bool)> then);

  /// Calls what has come back, until close() and the end of all operations.
  void run();
  /// Cancels all operations. None may begin afterwards, except by `then` of another.
  void close();

  grpc::CompletionQueue* get() { return &queue_; }

 private:
  struct Operation {
    std::shared_ptr<void> owner;
    grpc::ClientContext& context;
    std::function<void(bool)> then;
  };

  grpc::CompletionQueue queue_;
  std::mutex mutex_;
  std::map<void*, std::shared_ptr<Operation>> open_;  // by tag
  bool closed_ = false;
  bool shut_ = false;
};

}  // namespace flux::front

#pragma once

#include <condition_variable>
#include <functional>
#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "tensor/tensor.h"
#include "triton/c_api.h"
#include "triton/handover.h"
#include "triton/memory.h"

namespace flux::triton {

/// One request from this process to another model of the same server. Inputs are handed over where
/// they are, outputs are written by the other model where the caller wants them: no copies.
class NestedCall {
 public:
  /// `model`: its name; `id`: the client's request id, so that logs belong together; `ctx`: has the
  /// memory of outputs, where the other model prefers its device to the host.
  NestedCall(Server* server, std::string model, const std::string& id, Context& ctx);
  /// Waits until the server has let go of the inputs.
  ~NestedCall();
  NestedCall(const NestedCall&) = delete;
  NestedCall& operator=(const NestedCall&) = delete;

  /// A tensor input with a batch dimension of 1 put in front. Its memory must stay until the call
  /// is destroyed, and its values must be there when the call starts (but see hand_over()).
  void add_input(const char* name, const Tensor& tensor);
  void add_string(const char* name, std::string_view text);
  void add_integer(const char* name, int32_t value);
  void add_number(const char* name, float value);
  /// Where an output goes. Without it, memory is allocated.
  void expect_output(const char* name, const Tensor& target);
  /// The call's only output, expected in the memory of a GPU, may come after the response, and its
  /// inputs after `ready`: ops of the context come after both. See Handover.
  void hand_over(const Tensor& output, std::shared_ptr<const Fence> ready);
  /// Whether the other model knew of that. After wait().
  bool handed_over() const { return handover_ && handover_->taken(); }
  void set_timeout(uint64_t microseconds);
  void set_parameter(const char* name, const std::string& value);
  void set_parameter(const char* name, int64_t value);

  void start();
  /// Waits for the response. `stopped` is asked every few milliseconds; true cancels the call.
  /// Throws what the other model answered: kUnavailable when it is not loaded.
  void wait(const std::function<bool()>& stopped);
  /// An output without its batch dimension. After wait().
  Tensor take_output(const char* name) const;
  /// A boolean parameter of the response; false when it is not there.
  bool flag(const char* name) const;
  const std::string& model() const { return model_; }

 private:
  struct Target {
    std::string name;
    Tensor tensor;  // given by the caller, or allocated for the response
    bool given = false;
  };
  static ServerError* allocate(Allocator*, const char* tensor, size_t bytes, MemoryType wanted,
                               int64_t wanted_id, void* user, void** buffer, void** buffer_user,
                               MemoryType* actual, int64_t* actual_id);
  static ServerError* release_buffer(Allocator*, void*, void*, size_t, MemoryType, int64_t);
  static void on_release(NestedRequest*, uint32_t flags, void* user);
  static void on_response(NestedResponse*, uint32_t flags, void* user);
  static Allocator* allocator();

  void add_raw(const char* name, DataType type, const std::vector<int64_t>& shape,
               const Tensor& data);
  void add_bytes(const char* name, DataType type, const std::string& bytes);
  /// Memory for an output, on the device of the context if that is `wanted`.
  Tensor new_output(size_t bytes, const Place& wanted) const;
  Target& target_of(const char* name);
  void read_response(NestedResponse* response);

  Server* server_;
  std::string model_;
  Context& ctx_;
  NestedRequest* request_ = nullptr;
  std::list<std::string> owned_;  // small inputs made here
  std::list<Target> targets_;
  std::vector<std::string> flags_;
  std::optional<Handover> handover_;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool started_ = false;
  bool released_ = false;
  bool responded_ = false;
  NestedResponse* response_ = nullptr;
};

}  // namespace flux::triton

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

/// One request of the backend to another model of the same server. Nothing is copied: the other
/// model reads inputs where they are, and writes outputs where the caller wants them.
class NestedCall {
 public:
  /// `id` is the client's request id, by which lines of the log belong together. `ctx` provides the
  /// memory of outputs that the other model wants on the device of `ctx`.
  NestedCall(Server* server, std::string model, const std::string& id, Context& ctx);
  /// Cancels a call that has no response yet, and waits until the server has released the inputs.
  ~NestedCall();
  NestedCall(const NestedCall&) = delete;
  NestedCall& operator=(const NestedCall&) = delete;

  /// Adds a tensor, with a batch dimension of 1 put in front. Its memory must stay until the call
  /// is destroyed, and its values must be there when the call starts (but see hand_over()).
  void add_input(const char* name, const ConstTensor& tensor);
  void add_string(const char* name, std::string_view text);
  void add_integer(const char* name, int32_t value);
  void add_number(const char* name, float value);
  /// Gives the memory of an output. Memory is allocated for any other output.
  void expect_output(const char* name, const Tensor& target);
  /// Lets the inputs come as late as `ready`, and `output` later than the response: ops of the
  /// context begin after both. `output` is the call's only output, in GPU memory. See Handover.
  void hand_over(const Tensor& output, std::shared_ptr<const Fence> ready);
  /// Whether the other model took part in the handover. After wait().
  bool handed_over() const { return handover_ && handover_->taken(); }
  /// A refusal that begins with this word is about what the client sent: wait() throws it as it is.
  void expect_refusal_of(std::string word) { refusal_word_ = std::move(word); }
  void set_timeout(uint64_t microseconds);
  void set_parameter(const char* name, const std::string& value);
  void set_parameter(const char* name, int64_t value);

  /// Starts the call, with a trace of which the server becomes the owner; null: without one.
  void start(Trace* trace = nullptr);
  /// Waits for the response and the release. `stopped` is asked every few milliseconds; true
  /// cancels the call. Throws the error that the other model answered, kUnavailable when it is not
  /// loaded, and kCancelled for any failure of a call that was stopped.
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
               const ConstTensor& data);
  void add_bytes(const char* name, DataType type, const std::string& bytes);
  /// Memory for an output, on the device of the context if the other model wants device memory.
  Tensor new_output(size_t bytes, const MemoryLocation& wanted) const;
  Target& target_of(const char* name);
  void read_response(NestedResponse* response);

  Server* server_;
  std::string model_;
  Context& ctx_;
  NestedRequest* request_ = nullptr;
  std::list<std::string> owned_;  // small inputs made here
  std::list<Target> targets_;
  std::vector<std::string> flags_;
  std::string refusal_word_;  // empty: none
  std::optional<Handover> handover_;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool started_ = false;
  bool released_ = false;
  bool responded_ = false;
  NestedResponse* response_ = nullptr;
};

}  // namespace flux::triton

#pragma once

#include <exception>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/context.h"
#include "tensor/tensor.h"
#include "triton/c_api.h"
#include "triton/handover.h"

namespace flux::triton {

/// A response to one request: its outputs in the memory that the server gives for them, its
/// parameters, and how it is sent. It is made with the first of these, and sent once. A request to
/// a decoupled model may have several, of which the last is final; they are sent one after another,
/// before the request is released.
class Response {
 public:
  explicit Response(BackendRequest* request) : request_(request) {}
  /// As if use(ctx) were called.
  Response(BackendRequest* request, Context& ctx) : request_(request), ctx_(&ctx) {}
  /// Drops what was not sent.
  ~Response();
  Response(const Response&) = delete;
  Response& operator=(const Response&) = delete;

  /// `ctx` computes the outputs, as long as this object lives. Before the first output.
  void use(Context& ctx) { ctx_ = &ctx; }

  /// The memory of an output, where the server wants it: in host memory or on a GPU within reach of
  /// the context. `shape` includes the batch dimension. Ask for it before ops of the context read
  /// inputs: with a Handover it lets them wait for the inputs.
  Tensor output(std::string_view name, DType dtype, const Shape& shape);
  /// The memory of an output that the CPU makes: always in host memory.
  Tensor host_output(std::string_view name, DType dtype, const Shape& shape);
  /// A STRING output of shape [rows, texts per row].
  void strings(std::string_view name, const std::vector<std::string>& texts, int64_t rows);
  void set_flag(const char* name);
  void set_parameter(const char* name, const std::string& value);
  void set_parameter(const char* name, int64_t value);
  void set_parameter(const char* name, double value);
  /// After the last output was written, by ops of the context or by the CPU: brings all outputs to
  /// where the server wants them and waits until they are there.
  void finish();
  /// The tensors of output(), where the server has them.
  struct Made {
    std::string name;
    Tensor target;
  };
  std::span<const Made> made() const { return made_; }
  /// Whether the caller takes all outputs where they are, before the GPU has written them.
  bool can_hand_over() const { return handover_ != nullptr && staged_.empty(); }
  /// Instead of finish(), where can_hand_over(): the outputs are there when `done` has been
  /// reached.
  void hand_over(std::shared_ptr<const Fence> done) { handover_->answer(std::move(done)); }

  /// Sends one of several responses, which is not the last; its outputs were made by the CPU.
  /// Throws where the server cannot make one, or cannot send it.
  void send_part();
  /// Sends the response, the last. Returns false, with a line in the log, when the server cannot
  /// make one.
  bool send() noexcept;
  /// Drops the response, if there is one, and sends an error.
  void send_error(const std::exception& error) noexcept;

 private:
  /// An output that is written elsewhere first.
  struct Staged {
    Tensor made;
    Tensor target;
  };
  BackendResponse* handle();
  void drop() noexcept;
  /// The memory that the server gives for an output; `wish` is the device that suits best.
  Tensor output_buffer(std::string_view name, DataType type, const std::vector<int64_t>& shape,
                       uint64_t bytes, const Device& wish);
  Tensor staged(const Tensor& target, const Device& device);

  BackendRequest* request_;
  BackendResponse* response_ = nullptr;
  Context* ctx_ = nullptr;
  std::vector<Made> made_;
  std::vector<Staged> staged_;  // finish() copies them to where the server wants them
  Handover* handover_ = nullptr;
};

}  // namespace flux::triton

#pragma once

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/context.h"
#include "support/error.h"
#include "tensor/tensor.h"
#include "triton/c_api.h"
#include "triton/handover.h"

namespace flux::triton {

using Clock = std::chrono::steady_clock;

/// Nanoseconds for the server's statistics.
uint64_t now_ns();

/// The wire type of a dtype, and back. Throws kInternal for one that is never sent.
DataType wire_type(DType dtype);

/// One request to a model: its inputs, parameters, outputs wanted, and whether it still matters.
/// Throws kInvalidArgument, naming the input, for anything that is not as asked. The request
/// belongs to the backend until release(). Inputs and outputs may be in the memory of the host or
/// of a GPU.
class Request {
 public:
  /// Only remembers the request; read() looks at it, so that what is wrong can be answered.
  explicit Request(BackendRequest* request);
  ~Request();
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;

  /// Reads what the request holds. `ctx` copies for it, from now on and as long as it lives. Throws
  /// kInvalidArgument for inputs that disagree on the number of rows.
  void read(Context& ctx);
  bool has_input(std::string_view name) const;
  /// Size of the first dimension of all inputs.
  int64_t rows() const { return rows_; }

  /// A tensor input of a floating point `dtype` and rank `sizes`.size() + 1; a size of -1 is free.
  /// A view of the server's memory where that is whole, aligned and within reach of the context,
  /// else a copy in host memory or where the context computes.
  Tensor tensor(std::string_view name, DType dtype, std::span<const int64_t> sizes) const;
  /// Bytes that tensor() had to copy so far.
  int64_t copied_bytes() const { return copied_bytes_; }
  /// The values of a STRING [rows, 1], INT32/INT64 [rows, 1] or FP32 [rows, 1] input.
  std::vector<std::string> strings(std::string_view name) const;
  std::vector<int64_t> integers(std::string_view name) const;
  std::vector<double> numbers(std::string_view name) const;

  /// A request parameter as JSON (string, integer, boolean or number), or nothing.
  std::optional<nlohmann::json> parameter(std::string_view name) const;

  std::string id() const;
  bool wants_output(std::string_view name) const;
  /// Whether the client cancelled it or its time is over.
  bool stopped() const;
  bool deadline_passed() const;
  /// Microseconds left until the deadline, at least 1; nothing when there is none.
  std::optional<uint64_t> remaining_us() const;

  /// The memory of an output, where the server wants it: in host memory or on a GPU within reach of
  /// the context. shape: with the batch dimension. Ask for it before ops of the context read
  /// inputs: with a Handover it lets them wait for these.
  Tensor output(std::string_view name, DType dtype, const Shape& shape);
  /// The same for an output that is made by the CPU: always in host memory.
  Tensor host_output(std::string_view name, DType dtype, const Shape& shape);
  /// A STRING output of shape [rows, texts per row].
  void output_strings(std::string_view name, const std::vector<std::string>& texts, int64_t rows);
  void set_flag(const char* name);
  /// After the last output was written, by ops of the context or by the CPU: brings all outputs to
  /// where the server wants them and waits until they are there.
  void finish_outputs();
  /// Whether the caller takes outputs before they are there: all of them, where they are.
  bool can_hand_over() const { return handover_ != nullptr && staged_.empty(); }
  /// Instead of finish_outputs(), where that is so: they are there when `done` has been reached.
  void hand_over(std::shared_ptr<const Fence> done) { handover_->answer(std::move(done)); }

  /// Sends the response (or the error) and releases the request, with its statistics.
  void send(Instance* instance, uint64_t start_ns, uint64_t compute_start_ns,
            uint64_t compute_end_ns) noexcept;
  void send_error(Instance* instance, const std::exception& error, uint64_t start_ns) noexcept;

 private:
  struct InputInfo {
    Input* input = nullptr;
    DataType type = DataType::kInvalid;
    std::vector<int64_t> shape;
    uint64_t bytes = 0;
    uint32_t buffers = 0;
  };
  /// The server itself takes `timeout` from /infer and gRPC; from /generate it arrives as any other
  /// parameter.
  void read_timeout_parameter();
  const InputInfo& info(std::string_view name) const;
  /// One of an input's pieces.
  Tensor piece(const InputInfo& input, uint32_t index) const;
  /// All bytes of an input in one piece of host memory, which `owner` keeps.
  std::span<const std::byte> bytes_of(const InputInfo& input, Tensor& owner) const;
  void expect_scalar_rows(std::string_view name, const InputInfo& input) const;
  BackendResponse* response();
  /// The memory that the server gives for an output; `wish` is where it would be best.
  Tensor output_buffer(std::string_view name, DataType type, const std::vector<int64_t>& shape,
                       uint64_t bytes, const Device& wish);
  Tensor staged(const Tensor& target, const Device& device);
  void release(Instance* instance, bool success, uint64_t start_ns, uint64_t compute_start_ns,
               uint64_t compute_end_ns);

  BackendRequest* request_;
  BackendResponse* response_ = nullptr;
  Context* ctx_ = nullptr;
  std::map<std::string, InputInfo, std::less<>> inputs_;
  struct Staged {
    Tensor made;
    Tensor target;
  };
  std::vector<Staged> staged_;  // outputs to copy to where the server wants them
  Handover* handover_ = nullptr;
  int64_t rows_ = 1;
  mutable int64_t copied_bytes_ = 0;  // counted by the reading functions
  Clock::time_point start_ = Clock::now();
  std::optional<Clock::time_point> deadline_;
};

}  // namespace flux::triton

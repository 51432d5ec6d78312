#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "triton/clock.h"
#include "triton/request_inputs.h"
#include "triton/response.h"

namespace flux::triton {

/// One request to a model: its inputs, parameters and response, whether it still matters, and its
/// release. The request belongs to the backend until it is released, which happens exactly once:
/// when it is answered, or with an error when this object is destroyed before.
class Request {
 public:
  /// Only remembers the request; read() looks at it, so that what is wrong can be answered.
  explicit Request(BackendRequest* request);
  ~Request();
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;

  /// Reads what the request holds. `ctx` copies inputs and computes outputs, from now on and as
  /// long as this object lives. Throws kInvalidArgument, naming what is wrong.
  void read(Context& ctx);

  // Its inputs; see RequestInputs.
  bool has_input(std::string_view name) const { return inputs_.has(name); }
  int64_t rows() const { return inputs_.rows(); }
  ConstTensor tensor(std::string_view name, DType dtype, std::span<const int64_t> sizes) const {
    return inputs_.tensor(name, dtype, sizes);
  }
  ConstTensor host_bytes(std::string_view name, std::span<const int64_t> sizes) const {
    return inputs_.host_bytes(name, sizes);
  }
  int64_t copied_bytes() const { return inputs_.copied_bytes(); }
  std::vector<std::string> strings(std::string_view name) const { return inputs_.strings(name); }
  std::vector<int64_t> integers(std::string_view name) const { return inputs_.integers(name); }
  std::vector<double> numbers(std::string_view name) const { return inputs_.numbers(name); }

  /// A request parameter as JSON (string, integer, boolean or number), or nothing.
  std::optional<nlohmann::json> parameter(std::string_view name) const;

  /// The names of all its parameters, the server's own among them.
  std::vector<std::string> parameter_names() const;

  std::string id() const;
  /// How lines of the log begin to speak of it: "request 'ID': ", the id cut; empty without one.
  std::string log_prefix() const;
  /// A new trace below that of this request, for a request to another model; null when this one is
  /// not traced. The caller owns it.
  Trace* spawn_trace() const;
  bool wants_output(std::string_view name) const;
  /// Whether the client cancelled it or its deadline has passed.
  bool stopped() const;
  bool deadline_passed() const;
  /// Microseconds left until the deadline, at least 1; nothing when there is none.
  std::optional<uint64_t> remaining_us() const;
  /// The class that it is in, from 1, which goes first, to kPriorities.
  int priority() const;
  static constexpr int kPriorities = 10;
  static constexpr int kDefaultPriority = 5;

  // Its response; see Response.
  Tensor output(std::string_view name, DType dtype, const Shape& shape) {
    return response_.output(name, dtype, shape);
  }
  Tensor host_output(std::string_view name, DType dtype, const Shape& shape) {
    return response_.host_output(name, dtype, shape);
  }
  void output_strings(std::string_view name, const std::vector<std::string>& texts, int64_t rows) {
    response_.strings(name, texts, rows);
  }
  void set_flag(const char* name) { response_.set_flag(name); }
  void set_parameter(const char* name, const std::string& value) {
    response_.set_parameter(name, value);
  }
  void finish_outputs() { response_.finish(); }
  /// A response before the last, of a decoupled model: to fill, and to send by send_part(). `ctx`
  /// is that of the calling thread.
  Response part(Context& ctx) const;
  std::span<const Response::Made> outputs() const { return response_.made(); }
  bool can_hand_over() const { return response_.can_hand_over(); }
  void hand_over(std::shared_ptr<const Fence> done) { response_.hand_over(std::move(done)); }

  /// Sends the response (or the error) and releases the request, with its statistics.
  void send(Instance* instance, uint64_t start_ns, uint64_t compute_start_ns,
            uint64_t compute_end_ns) noexcept;
  void send_error(Instance* instance, const std::exception& error, uint64_t start_ns) noexcept;

 private:
  /// As the server has it: name and value live as long as its request.
  struct Parameter {
    const char* name = nullptr;
    ParameterType type = ParameterType::kString;
    const void* value = nullptr;
  };
  std::vector<Parameter> parameters() const;
  /// The server itself takes `timeout` from /infer and gRPC; from /generate it arrives as any other
  /// parameter.
  void read_timeout_parameter();
  void release(Instance* instance, bool success, uint64_t start_ns, uint64_t compute_start_ns,
               uint64_t compute_end_ns);

  BackendRequest* request_;
  RequestInputs inputs_;
  Response response_;
  Clock::time_point start_ = Clock::now();
  std::optional<Clock::time_point> deadline_;
};

}  // namespace flux::triton

#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "triton/c_api.h"

/// A server in the test program: the functions of Triton's C interface that the backend looks up,
/// over requests, responses and models in memory. The opaque types of c_api.h are defined here.
namespace flux::triton {

/// Objects that the backend has to give back: how many there are.
struct Counted {
  Counted() { ++alive; }
  ~Counted() { --alive; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  static inline std::atomic<int> alive = 0;
};

struct ServerError : Counted {
  ServerError(ServerErrorCode c, std::string t) : code(c), text(std::move(t)) {}
  ServerErrorCode code;
  std::string text;
};

struct Message {
  std::string json;
};

using ParameterValue = std::variant<std::string, int64_t, bool, double>;

struct Input {
  std::string name;
  DataType type;
  std::vector<int64_t> shape;
  /// The bytes, in one piece or several. A piece begins `offset` bytes after an aligned address.
  std::vector<std::string> pieces;
  size_t offset = 0;
  std::vector<std::vector<std::byte>> memory = {};  // of the pieces, filled by the server
};

/// An output in a response: of a request to the backend, or of a stage's answer to a nested one.
struct Output {
  std::string name;
  DataType type = DataType::kInvalid;
  std::vector<int64_t> shape;
  std::string bytes = {};
  MemoryType memory = MemoryType::kCpu;  // where the server wants it
  int64_t device = 0;
  size_t offset = 0;  // of its memory from an aligned address
  void* address = nullptr;
  std::vector<std::byte> owned = {};
};

struct BackendResponse : Counted {
  BackendRequest* request = nullptr;
  std::list<Output> outputs;
  std::vector<std::string> flags;
  std::map<std::string, std::string> texts;
  std::map<std::string, double> numbers;
};

/// A request from a client to a model of the backend, and what became of it.
struct BackendRequest {
  std::string id = "request-1";
  std::list<Input> inputs = {};
  std::vector<std::string> wanted = {};
  std::map<std::string, ParameterValue> parameters = {};
  uint64_t timeout_us = 0;
  std::atomic<bool> cancelled = false;
  MemoryType output_memory = MemoryType::kCpu;
  int64_t output_device = 0;
  size_t output_offset = 0;

  struct Answer {
    std::list<Output> outputs;
    std::vector<std::string> flags;
    std::map<std::string, std::string> texts;
    std::map<std::string, double> numbers;
    std::string error;  // empty: none
    ServerErrorCode code = ServerErrorCode::kUnknown;
    bool final = false;
  };
  std::vector<Answer> answers = {};
  int releases = 0;
  std::vector<bool> reports = {};  // of success, before the release
};

/// A request of the backend to another model.
struct NestedRequest : Counted {
  std::string model;
  std::string id;
  uint64_t timeout_us = 0;
  std::map<std::string, std::string> parameters;
  struct GivenInput {
    DataType type;
    std::vector<int64_t> shape;
    const void* address;
    size_t bytes;
  };
  std::map<std::string, GivenInput> inputs;
  std::atomic<bool> cancelled = false;
  ReleaseRequestFn released = nullptr;
  void* released_user = nullptr;
  Allocator* allocator = nullptr;
  ResponseFn responded = nullptr;
  void* user = nullptr;

  /// For the model: the memory that the caller gives for an output; null when it refuses.
  void* allocate(const std::string& name, size_t bytes);
  /// Answers with outputs, whose bytes are copied to the caller's memory.
  void answer(std::list<Output> outputs, std::vector<std::string> flags = {});
  void answer_error(ServerErrorCode code, const std::string& text);
  void answer_nothing();
  /// Lets go of the request.
  void release();
  /// Waits until the caller cancels.
  void wait_for_cancellation() const;
};

struct NestedResponse : Counted {
  std::unique_ptr<ServerError> error;
  std::list<Output> outputs;
  std::vector<std::string> flags;
};

struct Allocator {
  AllocateFn allocate;
  ReleaseBufferFn release;
};

struct Model {
  std::string name;
  std::string repository = {};
  std::string config = {};
  Server* server = nullptr;
  void* state = nullptr;
};

struct Instance {
  Model* model = nullptr;
  InstanceKind kind = InstanceKind::kCpu;
  void* state = nullptr;
  std::vector<uint64_t> batches = {};  // rows of each execution
};

/// The server. A model's function runs on a thread of its own for each request, and must answer and
/// release it.
struct Server {
  std::map<std::string, std::function<void(NestedRequest&)>> models = {};
  std::mutex mutex = {};
  std::list<std::thread> threads = {};
  void join();
};

/// The failures that tests plan, and the log.
class World {
 public:
  void reset();
  /// The next call of a function fails, after `after` calls that do not.
  void fail_next(const std::string& function, ServerErrorCode code, const std::string& text,
                 int after = 0);
  /// The error that is planned for this call of a function, or null.
  ServerError* planned(const char* function);
  size_t planned_count() const { return failures_.size(); }
  void log(const char* line);
  std::string log() const;

 private:
  struct Failure {
    ServerErrorCode code;
    std::string text;
    int after;
  };
  mutable std::mutex mutex_;
  std::map<std::string, Failure> failures_;
  std::string log_;
};

World& world();

/// Starts the backend in the server, and expects after the test that the backend kept nothing.
class FakeServerTest : public ::testing::Test {
 protected:
  FakeServerTest();
  ~FakeServerTest() override;

  Server server;
};

// Declared as the backend calls them: a definition that differs does not compile.
extern "C" {
#define FLUX_TRITON_DECLARE(Return, Name, Arguments) Return Name Arguments;
FLUX_TRITON_FUNCTIONS(FLUX_TRITON_DECLARE)
#undef FLUX_TRITON_DECLARE

// What the server calls in the backend.
ServerError* TRITONBACKEND_Initialize(ServerBackend*);
ServerError* TRITONBACKEND_ModelInitialize(Model*);
ServerError* TRITONBACKEND_ModelFinalize(Model*);
ServerError* TRITONBACKEND_ModelInstanceInitialize(Instance*);
ServerError* TRITONBACKEND_ModelInstanceFinalize(Instance*);
ServerError* TRITONBACKEND_ModelInstanceExecute(Instance*, BackendRequest**, uint32_t);
}

}  // namespace flux::triton

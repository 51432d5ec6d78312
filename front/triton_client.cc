#include "front/triton_client.h"

#include <grpcpp/grpcpp.h>

#include <mutex>
#include <set>
#include <thread>

#include "front/grpc_operations.h"
#include "front/triton_messages.h"
#include "triton.grpc.pb.h"

namespace flux::front {
namespace {

namespace kserve = ::inference;

/// How long the server may take to say what it has.
constexpr std::chrono::seconds kPatience(2);

/// What the server answers may be as large as its images are.
grpc::ChannelArguments channel_arguments() {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  // A server that was restarted is found again within a second.
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  // A channel of this process's own: nobody else shares its connection.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // Proxies of the environment are for the world outside.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return arguments;
}

}  // namespace

/// The connection to a server, and the thread that waits for all that happens on it.
class Channel {
 public:
  Channel(const std::string& address, TritonClient::Post post)
      : post_(std::move(post)),
        stub_(kserve::GRPCInferenceService::NewStub(grpc::CreateCustomChannel(
            address, grpc::InsecureChannelCredentials(), channel_arguments()))),
        thread_([this] { queue_.run(); }) {}

  ~Channel() {
    queue_.close();
    thread_.join();
  }
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  kserve::GRPCInferenceService::Stub& stub() { return *stub_; }
  OperationQueue& queue() { return queue_; }
  void post(std::function<void()> report) const { post_(std::move(report)); }

 private:
  TritonClient::Post post_;
  OperationQueue queue_;
  std::unique_ptr<kserve::GRPCInferenceService::Stub> stub_;
  std::thread thread_;
};

namespace {

/// One request and the stream of its responses. It lives until the server has ended it and every
/// operation has come back.
class StreamCall final : public RunningCall, public std::enable_shared_from_this<StreamCall> {
 public:
  StreamCall(Channel& channel, TritonClient::Reports reports)
      : channel_(channel), reports_(std::move(reports)) {}

  void start(const kserve::ModelInferRequest& request) {
    // A message is serialized when it is written, which is after the start.
    request_ = request;
    stream_ = channel_.stub().PrepareAsyncModelStreamInfer(&context_, channel_.queue().get());
    stream_->StartCall(begin([this](bool ok) { on_started(ok); }));
  }

  void cancel() override { context_.TryCancel(); }

 private:
  void* begin(std::function<void(bool)> then) {
    return channel_.queue().begin(shared_from_this(), context_, std::move(then));
  }

  void on_started(bool ok) {
    if (!ok) return finish();
    stream_->WriteLast(request_, grpc::WriteOptions(), begin([](bool) {}));
    read();
  }

  void read() {
    response_.Clear();
    stream_->Read(&response_, begin([this](bool ok) { on_read(ok); }));
  }

  void on_read(bool ok) {
    if (!ok) return finish();
    if (!response_.error_message().empty()) {
      if (error_.empty()) error_ = response_.error_message();
    } else {
      report_update();
    }
    read();
  }

  void report_update() {
    auto update = std::make_shared<StepUpdate>(read_response(*response_.mutable_infer_response()));
    channel_.post([self = shared_from_this(), update] { self->reports_.on_update(*update); });
  }

  void finish() {
    stream_->Finish(&status_, begin([this](bool) { on_finished(); }));
  }

  void on_finished() {
    std::optional<ApiError> error = error_of(status_);
    if (!error && !error_.empty()) error = error_in_stream(error_, request_);
    channel_.post([self = shared_from_this(), error] {
      // What the reports hold ends on their thread, whoever lets go of the call last.
      const TritonClient::Reports reports = std::move(self->reports_);
      reports.on_end(error);
    });
  }

  Channel& channel_;
  TritonClient::Reports reports_;
  grpc::ClientContext context_;
  kserve::ModelInferRequest request_;
  kserve::ModelStreamInferResponse response_;
  std::string error_;
  grpc::Status status_;
  std::unique_ptr<
      grpc::ClientAsyncReaderWriter<kserve::ModelInferRequest, kserve::ModelStreamInferResponse>>
      stream_;
};

/// A call with one answer.
template <typename Response>
struct UnaryCall {
  grpc::ClientContext context;
  grpc::Status status;
  Response response;
  std::unique_ptr<grpc::ClientAsyncResponseReader<Response>> reader;

  UnaryCall() { context.set_deadline(std::chrono::system_clock::now() + kPatience); }
};

/// The list of pipelines while it is asked for: the index of models, then each pipeline's config.
class Listing : public std::enable_shared_from_this<Listing> {
 public:
  using OnList = std::function<void(std::optional<std::vector<PipelineInfo>>)>;

  Listing(Channel& channel, OnList on_list) : channel_(channel), on_list_(std::move(on_list)) {}

  void start() {
    using Call = UnaryCall<kserve::RepositoryIndexResponse>;
    auto call = std::make_shared<Call>();
    call->reader =
        channel_.stub().PrepareAsyncRepositoryIndex(&call->context, {}, channel_.queue().get());
    send(call, [self = shared_from_this(), call] { self->on_index(*call); });
  }

 private:
  template <typename Response>
  void send(const std::shared_ptr<UnaryCall<Response>>& call, std::function<void()> then) {
    void* tag =
        channel_.queue().begin(call, call->context, [then = std::move(then)](bool) { then(); });
    call->reader->StartCall();
    call->reader->Finish(&call->response, &call->status, tag);
  }

  void on_index(const UnaryCall<kserve::RepositoryIndexResponse>& index) {
    if (!index.status.ok()) return report(std::nullopt);
    pipelines_ = pipelines_of(index.response);
    open_ = pipelines_.size();
    if (open_ == 0) return report(pipelines_);
    for (size_t i = 0; i < pipelines_.size(); ++i) ask_config(i);
  }

  void ask_config(size_t pipeline) {
    using Call = UnaryCall<kserve::ModelConfigResponse>;
    auto call = std::make_shared<Call>();
    kserve::ModelConfigRequest request;
    request.set_name(pipelines_[pipeline].model);
    call->reader =
        channel_.stub().PrepareAsyncModelConfig(&call->context, request, channel_.queue().get());
    send(call, [self = shared_from_this(), call, pipeline] {
      if (call->status.ok()) {
        read_config(call->response.config(), self->pipelines_[pipeline]);
      } else {
        self->pipelines_[pipeline].ready = false;  // unloaded meanwhile
      }
      if (--self->open_ == 0) self->report(self->pipelines_);
    });
  }

  void report(const std::optional<std::vector<PipelineInfo>>& list) {
    channel_.post([on_list = std::move(on_list_), list] { on_list(list); });
  }

  Channel& channel_;
  OnList on_list_;
  std::vector<PipelineInfo> pipelines_;
  size_t open_ = 0;
};

}  // namespace

TritonClient::TritonClient(const std::string& address, Post post)
    : channel_(std::make_unique<Channel>(address, std::move(post))) {}

TritonClient::~TritonClient() = default;

std::shared_ptr<RunningCall> TritonClient::generate(const PipelineCall& call, Reports reports) {
  auto made = std::make_shared<StreamCall>(*channel_, std::move(reports));
  made->start(infer_request(call));
  return made;
}

void TritonClient::list_pipelines(
    std::function<void(std::optional<std::vector<PipelineInfo>>)> on_list) {
  std::make_shared<Listing>(*channel_, std::move(on_list))->start();
}

}  // namespace flux::front

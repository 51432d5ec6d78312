#pragma once

#include <grpcpp/grpcpp.h>

#include <optional>
#include <vector>

#include "front/triton_client.h"
#include "triton.pb.h"

/// Between the protocol's messages and the front's own types.
namespace flux::front {

/// The request of a call. Throws nothing: what is wrong, the server says.
inference::ModelInferRequest infer_request(const PipelineCall& call);

/// A response of a pipeline; takes the files out of it.
StepUpdate read_response(inference::ModelInferResponse& response);

/// The pipelines of a server, whose config is still to be asked for. One is ready when it and all
/// models of its prefix are.
std::vector<PipelineInfo> pipelines_of(const inference::RepositoryIndexResponse& index);

/// Takes from a pipeline's config what the front needs.
void read_config(const inference::ModelConfig& config, PipelineInfo& pipeline);

/// An error that came in a stream, where it has no code: one that is about an input of `request`
/// is its client's (400); the others are the server's. The server can be asked for codes
/// (triton_grpc_error), but 2.51 then crashes when errors and other requests come together.
ApiError error_in_stream(const std::string& message, const inference::ModelInferRequest& request);

/// The error of a call; nothing for a status that is none.
std::optional<ApiError> error_of(const grpc::Status& status);

}  // namespace flux::front

#include "library/session.h"

#include <algorithm>
#include <limits>

#include "convert/repository_layout.h"
#include "ops/registry.h"
#include "support/default_threads.h"
#include "support/error.h"

namespace flux {
namespace {

bool is_as_stored(std::string_view dtype) { return dtype == "as stored" || dtype == "stored"; }

/// All but the dtype of a checkpoint.
LocalOptions parse(const ModelOptions& options) {
  check(options.threads >= 0 && options.threads <= kMaxThreads, ErrorCode::kInvalidArgument,
        "threads is {}: must be 0 (one for each physical core) to {}", options.threads,
        kMaxThreads);
  LocalOptions parsed;
  parsed.device = parse_device(options.device);
  if (!is_as_stored(options.dtype)) parsed.dtype = parse_compute_dtype(options.dtype);
  parsed.quantization = parse_quantization(options.quantization);
  parsed.attention = parse_attention(options.attention);
  parsed.threads = options.threads > 0 ? options.threads : default_threads();
  if (options.gpu_memory == 0) return parsed;
  check(!parsed.device.is_cpu(), ErrorCode::kInvalidArgument,
        "gpu_memory is for a GPU: the device is cpu; leave it out");
  parsed.memory_limit = static_cast<int64_t>(
      std::min(options.gpu_memory, uint64_t{std::numeric_limits<int64_t>::max()}));
  return parsed;
}

}  // namespace

void check_options(const ModelOptions& options) { parse(options); }

Session open_session(const std::filesystem::path& source, const ModelOptions& options) {
  Session session;
  session.options = parse(options);
  session.checkpoint = open_source(source, options.parts);
  if (is_as_stored(options.dtype)) session.options.dtype = session.checkpoint->stored_dtype();
  session.stages = std::make_unique<LocalStages>(session.checkpoint, session.options);
  return session;
}

}  // namespace flux

// Fuzzes the readers of the JSON configurations, and what is computed from them before any weight
// is read: schedules and the checks of a request.
// Run by `make fuzz`; the corpus is tests/fuzz/corpus/configs. The first byte chooses the reader.

#include <cmath>

#include "fuzz/tokenizer_fuzz.h"
#include "pipeline/request.h"
#include "pipeline/schedule.h"

namespace {

void use_vae(const flux::VaeConfig& vae) {
  flux::FluxConfig config;
  config.vae = vae;
  flux::Request request;
  request.prompt = "a star";
  request.seed = 0;
  flux::fuzz::allow_errors([&] {
    const flux::ImageParams params = flux::validate(request, config, flux::limits_for(config));
    if (params.height % config.size_multiple() != 0 || params.height <= 0) std::abort();
  });
}

void use_scheduler(const flux::SchedulerConfig& config) {
  for (const int64_t tokens : {1, 1024, 16384}) {
    flux::fuzz::allow_errors([&] {
      const flux::Schedule schedule = flux::make_schedule(config, 4, tokens);
      if (schedule.steps() != 4 || schedule.sigmas.size() != 5) std::abort();
      for (const float sigma : schedule.sigmas) {
        if (!std::isfinite(sigma)) std::abort();
      }
    });
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const flux::fuzz::Directory directory;
  if (size == 0) return 0;
  directory.write("config.json", {reinterpret_cast<const char*>(data + 1), size - 1});
  const std::filesystem::path file = directory.path() / "config.json";
  flux::fuzz::allow_errors([&] {
    switch (data[0] % 5) {
      case 0:
        flux::load_clip_config(file);
        break;
      case 1:
        flux::load_t5_config(file);
        break;
      case 2:
        flux::load_flux_transformer_config(file);
        break;
      case 3:
        use_vae(flux::load_vae_config(file));
        break;
      default:
        use_scheduler(flux::load_scheduler_config(file));
        break;
    }
  });
  return 0;
}

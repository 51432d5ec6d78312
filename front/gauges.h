#pragma once

#include <string>

#include "front/catalog.h"
#include "front/generations.h"
#include "front/http.h"

namespace flux::front {

/// The front's own metrics, flux_front_*, in Prometheus' text format.
std::string gauges_text(const Generations& generations, const HttpCounts& counts,
                        const Catalog& catalog);

}  // namespace flux::front

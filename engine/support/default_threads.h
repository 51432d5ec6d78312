#pragma once

namespace flux {

/// Threads of one computation at most.
inline constexpr int kMaxThreads = 1024;

/// The number of threads where the user gives none: one for each physical core that this process
/// may run on, but no more than the CPUs that its container is limited to.
int default_threads();

}  // namespace flux

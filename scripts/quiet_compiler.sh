#!/usr/bin/env bash
# Runs a CUDA compiler without the notes C7519 of ptxas, which are no faults and cannot be switched
# off: it adds the `warpgroup.arrive` that products with operands in registers need. All else that the
# compiler says, and its exit code, are as they are.   scripts/quiet_compiler.sh COMPILER [ARGUMENT...]
set -uo pipefail
"$@" 2>&1 | { grep -v '^ptxas info  *: (C7519)' || true; }
exit "${PIPESTATUS[0]}"

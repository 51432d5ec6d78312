#include "ops/cpu/kernels/attention_kernels.h"
#include "ops/cpu/kernels/decode_kernels.h"
#include "ops/cpu/kernels/int8_kernels.h"
#include "ops/cpu/kernels/kernels.h"
#include "ops/cpu/kernels/product_kernels.h"
#include "ops/cpu/kernels/row_kernels.h"
#include "ops/cpu/kernels/winograd_kernels.h"

#define FLUX_NAME_OF(isa) #isa
#define FLUX_NAME(isa) FLUX_NAME_OF(isa)

namespace flux::cpu::FLUX_ISA {

const Kernels& kernels();

const Kernels& kernels() {
  static const Kernels table = {FLUX_NAME(FLUX_ISA),
                                row_kernels<float>(),
                                row_kernels<BFloat16>(),
                                attention_kernels<float>(),
                                attention_kernels<BFloat16>(),
                                winograd_kernels(),
                                product_kernels(),
                                decode_kernels(),
                                int8_kernels()};
  return table;
}

}  // namespace flux::cpu::FLUX_ISA

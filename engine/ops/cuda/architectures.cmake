# What libflux_cuda.so is compiled for. Sets flux_cuda_architectures from FLUX_CUDA_ARCHITECTURES:
#   native  the GPUs of this machine; where there is none, Hopper
#   all     every GPU from Ampere on; newer ones than Blackwell compile the PTX at load
#   a list  as CMAKE_CUDA_ARCHITECTURES takes it
# Hopper's kernels use instructions of sm_90a alone, so that is what compute capability 9.0 becomes.

function(flux_native_architectures result)
  set(found)
  find_program(NVIDIA_SMI nvidia-smi)
  if(NVIDIA_SMI)
    execute_process(COMMAND ${NVIDIA_SMI} --query-gpu=compute_cap --format=csv,noheader
                    OUTPUT_VARIABLE capabilities ERROR_QUIET RESULT_VARIABLE failed)
    if(failed EQUAL 0)
      string(REGEX MATCHALL "[0-9]+\\.[0-9]+" capabilities "${capabilities}")
      foreach(capability ${capabilities})
        string(REPLACE "." "" architecture ${capability})
        if(architecture EQUAL 90)
          set(architecture 90a)
        endif()
        if(architecture MATCHES "^[0-7]?[0-9]$")
          message(WARNING "A GPU of this machine has compute capability ${capability}: "
                          "libflux_cuda.so needs 8.0 (Ampere) or newer.")
        else()
          list(APPEND found ${architecture}-real)
        endif()
      endforeach()
      list(REMOVE_DUPLICATES found)
    endif()
  endif()
  set(${result} "${found}" PARENT_SCOPE)
endfunction()

if(FLUX_CUDA_ARCHITECTURES STREQUAL "native")
  flux_native_architectures(flux_cuda_architectures)
  if(NOT flux_cuda_architectures)
    set(flux_cuda_architectures 90a-real)
    message(NOTICE "CUDA: there is no GPU here, so libflux_cuda.so is built for Hopper (sm_90a) alone; "
                   "-DFLUX_CUDA_ARCHITECTURES=all builds for all GPUs.")
  endif()
elseif(FLUX_CUDA_ARCHITECTURES STREQUAL "all")
  set(flux_cuda_architectures 80-real 86-real 89-real 90a-real 100-real 120)
else()
  set(flux_cuda_architectures ${FLUX_CUDA_ARCHITECTURES})
endif()

# Debian packages, by `cpack` in a build directory: flux-triton, libflux-dev to build programs with, and
# flux-triton-cuda with what computes on GPUs where that was built.
install(TARGETS flux-triton RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT core)
install(TARGETS triton_flux LIBRARY DESTINATION ${FLUX_PRIVATE_DIR}/backends/flux COMPONENT core)
if(TARGET flux_cuda)
  install(TARGETS flux_cuda LIBRARY DESTINATION ${FLUX_PRIVATE_DIR} COMPONENT cuda)
endif()

if(NOT PROJECT_IS_TOP_LEVEL)
  return()
endif()
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME flux-triton)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_CONTACT "the owner of the repository")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "Images with FLUX, from the command line and in Triton")
set(CPACK_DEBIAN_PACKAGE_SECTION graphics)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_COMPONENTS_ALL core library)
set(CPACK_DEBIAN_CORE_PACKAGE_NAME flux-triton)
set(CPACK_DEBIAN_CORE_PACKAGE_SHLIBDEPS ON)
# Where PyPI's server is found; python3-venv makes the environment that Debian wants for it.
set(CPACK_DEBIAN_CORE_PACKAGE_RECOMMENDS "python3")
set(CPACK_DEBIAN_CORE_PACKAGE_SUGGESTS "flux-triton-cuda, python3-venv")
set(CPACK_COMPONENT_CORE_DESCRIPTION
    "The program and the backend of Triton. To serve, it needs a tritonserver (docs/serving.md).")
set(CPACK_DEBIAN_LIBRARY_PACKAGE_NAME libflux-dev)
set(CPACK_DEBIAN_LIBRARY_PACKAGE_SHLIBDEPS ON)
set(CPACK_COMPONENT_LIBRARY_DESCRIPTION
    "The library for other programs: flux/flux.h, libflux.so, find_package(flux).")
if(TARGET flux_cuda)
  list(APPEND CPACK_COMPONENTS_ALL cuda)
  set(CPACK_DEBIAN_CUDA_PACKAGE_NAME flux-triton-cuda)
  # NVIDIA's libraries are of no Debian package: libcublasLt.so.13 comes with CUDA 13.
  set(CPACK_DEBIAN_CUDA_PACKAGE_DEPENDS "flux-triton (= ${PROJECT_VERSION})")
  set(CPACK_COMPONENT_CUDA_DESCRIPTION
      "What computes on NVIDIA GPUs. It needs the driver and libcublasLt.so.13 of CUDA 13.")
endif()
include(CPack)

# mlip_torch: headers and libraries of an installed torch, without find_package(Torch), which wants a CUDA toolkit.

if(NOT EXISTS "${TORCH_ROOT}/include/torch")
  message(FATAL_ERROR "TORCH_ROOT must be the directory of the torch package, got '${TORCH_ROOT}'")
endif()
add_library(mlip_torch INTERFACE)
target_include_directories(mlip_torch SYSTEM INTERFACE
  "${TORCH_ROOT}/include" "${TORCH_ROOT}/include/torch/csrc/api/include")
target_link_directories(mlip_torch INTERFACE "${TORCH_ROOT}/lib")
target_link_options(mlip_torch INTERFACE "-Wl,-rpath,${TORCH_ROOT}/lib")
# torch itself is for exported models: before torch 2.13 their code asks for it, without saying where it is
target_link_libraries(mlip_torch INTERFACE -Wl,--no-as-needed torch torch_cpu c10)
if(EXISTS "${TORCH_ROOT}/lib/libtorch_cuda.so")
  target_link_libraries(mlip_torch INTERFACE torch_cuda c10_cuda)
endif()

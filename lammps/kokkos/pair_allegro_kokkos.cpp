// The device-resident pair style: count, fill, evaluate in place, scatter (edge_kernels.h). One model, no committee.

#include "pair_allegro_kokkos.h"

#include "device_stream.h"
#include "edge_kernels.h"
#include "edge_potential.h"

#include "atom_masks.h"
#include "error.h"
#include "force.h"
#include "kokkos.h"
#include "neigh_request.h"
#include "neighbor.h"
#include "update.h"

#include <cmath>
#include <string>

using namespace LAMMPS_NS;

template <class DeviceType>
PairAllegroKokkos<DeviceType>::PairAllegroKokkos(LAMMPS *lmp) : PairAllegro(lmp)
{
  kokkosable = 1;
  comm_reverse = 0;    // no committee
  atomKK = (AtomKokkos *) atom;
  execution_space = ExecutionSpaceFromDevice<DeviceType>::space;
  datamask_read = X_MASK | F_MASK | TYPE_MASK | MASK_MASK | ENERGY_MASK | VIRIAL_MASK;
  datamask_modify = F_MASK | ENERGY_MASK | VIRIAL_MASK;
}

// The model goes to the device that Kokkos uses.
template <class DeviceType> int PairAllegroKokkos<DeviceType>::local_rank()
{
  if constexpr (ON_HOST)
    return PairAllegro::local_rank();
  else
    return Kokkos::device_id();
}

template <class DeviceType> void PairAllegroKokkos<DeviceType>::init_style()
{
  PairAllegro::init_style();
  if (members.size() > 1) error->all(FLERR, "pair_style allegro/kk: model must be one file (use allegro for a committee), got {}", members.size());
  if (!ON_HOST && members[0]->info().device != "cuda")
    error->all(FLERR, "pair_style allegro/kk: model must be compiled for cuda on a Kokkos device, got {}",
               members[0]->info().device);
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
  ev_init(eflag_in, vflag_in);
  atomKK->sync(execution_space, datamask_read);
  prepare_trial();
  clear_peratom();
  const int64_t edges = count();
  const int inum = list->inum;
  if (edges <= max_edges) {
    fill(0, inum, 0, edges);
    evaluate_chunk(inum, edges);
    scatter(0, inum, 0);
  } else {
    auto offsets = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), d_offsets);
    for (int first = 0; first < inum;) {
      int last = first + 1;
      while (last < inum && offsets(last) - offsets(first) < max_edges) last++;
      const int64_t here = offsets(last) - offsets(first);
      fill(first, last, offsets(first), here);
      evaluate_chunk(last - first, here);
      scatter(first, last, offsets(first));
      first = last;
    }
  }
  if (overlaps > 0 && eflag_global) eng_vdwl += energy_unit * REJECTED * overlaps;
  collect_peratom();
  atomKK->modified(execution_space, datamask_modify);
}

template <class DeviceType> typename PairAllegroKokkos<DeviceType>::Reader PairAllegroKokkos<DeviceType>::reader()
{
  auto *k_list = static_cast<NeighListKokkos<DeviceType> *>(list);
  return {atomKK->k_x.template view<DeviceType>(),
          atomKK->k_type.template view<DeviceType>(),
          atomKK->k_mask.template view<DeviceType>(),
          k_list->d_ilist,
          k_list->d_numneigh,
          k_list->d_neighbors,
          d_type_of,
          d_cutoffs_sq,
          atom->ntypes,
          hidden_groups};
}

template <class DeviceType> int64_t PairAllegroKokkos<DeviceType>::count()
{
  const int inum = list->inum;
  if (static_cast<int>(d_offsets.extent(0)) < inum + 1) d_offsets = Integers("allegro:offsets", inum + 1);
  int wild = 0, near = 0;
  const int64_t edges =
      mlip::count_edges<DeviceType>(reader(), inum, shortest_allowed_sq, rejects, d_offsets, wild, near);
  if (wild < inum)
    error->one(FLERR, "pair_style allegro/kk, step {}: positions must be finite, got NaN or infinity for atom {}",
               update->ntimestep, tag_of(wild));
  if (near < inum && rejects)
    overlaps = 1;
  else if (near < inum)
    error->one(FLERR,
               "pair_style allegro/kk, step {}: atom {} and a neighbor overlap: distance must be at least {} Angstrom, got less",
               update->ntimestep, tag_of(near), std::sqrt(shortest_allowed_sq));
  return edges;
}

// Edges sorted by center; neighbors are representatives of their types behind the centers.
template <class DeviceType>
void PairAllegroKokkos<DeviceType>::fill(int first, int last, int64_t start, int64_t edges)
{
  const int rows = last - first;
  const int kinds = static_cast<int>(members[0]->info().type_names.size());
  if (static_cast<int64_t>(d_atoms.extent(0)) < edges) {
    const int64_t capacity = edges + edges / 8;
    d_atoms = Kokkos::View<int *, DeviceType>("allegro:atoms", capacity);
    d_vectors = Doubles("allegro:vectors", 3 * capacity);
    d_forces = Doubles("allegro:forces", 3 * capacity);
    d_index = Integers("allegro:index", 2 * capacity);
  }
  if (static_cast<int>(d_types.extent(0)) < rows + kinds) {
    d_types = Integers("allegro:types", rows + kinds);
    d_energies = Doubles("allegro:energies", rows + kinds);
  }
  mlip::fill_edges<DeviceType>(reader(), first, rows, kinds, start, edges, rejects ? shortest_allowed_sq : 0.0,
                               d_offsets, d_vectors, d_index, d_types, d_atoms);
  if (kokkos_stream() == nullptr) Kokkos::fence();
}

// LAMMPS and Kokkos run on the stream of the default instance; torch on the same one waits for nothing else.
template <class DeviceType> void *const *PairAllegroKokkos<DeviceType>::kokkos_stream()
{
  if (ON_HOST || !mlip::takes_streams()) return nullptr;
  return mlip::stream_of(typename DeviceType::execution_space(), stream) ? &stream : nullptr;
}

template <class DeviceType> void PairAllegroKokkos<DeviceType>::evaluate_chunk(int rows, int64_t edges)
{
  const int64_t atoms = rows + static_cast<int64_t>(members[0]->info().type_names.size());
  std::string problem;
  try {
    if constexpr (ON_HOST)
      members[0]->evaluate(d_vectors.data(), d_index.data(), edges, d_types.data(), atoms, d_energies.data(),
                           d_forces.data());
    else
      members[0]->evaluate_on_device(d_vectors.data(), d_index.data(), edges, d_types.data(), atoms, d_energies.data(),
                                     d_forces.data(), kokkos_stream());
  } catch (const std::exception &e) {
    problem = e.what();
  }
  if (!problem.empty()) error->one(FLERR, "pair_style allegro/kk, step {}: {}", update->ntimestep, problem);
}

template <class DeviceType> void PairAllegroKokkos<DeviceType>::scatter(int first, int last, int64_t start)
{
  const int rows = last - first;
  const mlip::Wanted wanted = {vflag_global != 0, eflag_atom != 0, vflag_atom != 0, cvflag_atom != 0};
  const mlip::Totals totals = mlip::scatter_edges<DeviceType>(
      reader(), first, rows, start, energy_scale, wanted, d_offsets, d_vectors, d_forces, d_atoms, d_energies,
      atomKK->k_f.template view<DeviceType>(), d_eatom, d_vatom, d_cvatom);
  const bool energy = totals.wild_energy < rows;
  if (energy || totals.wild_force < rows)
    error->one(FLERR,
               "pair_style allegro/kk, step {}: energies and forces must be finite, got NaN or infinity for the {} of "
               "atom {}", update->ntimestep, energy ? "energy" : "edges",
               tag_of(first + (energy ? totals.wild_energy : totals.wild_force)));
  if (eflag_global) eng_vdwl += totals.energy;
  if (vflag_global)
    for (int k = 0; k < 6; k++) virial[k] += totals.virial[k];
}

// The tag of a center, for messages.
template <class DeviceType> tagint PairAllegroKokkos<DeviceType>::tag_of(int ii)
{
  int i = 0;
  Kokkos::deep_copy(i, Kokkos::subview(static_cast<NeighListKokkos<DeviceType> *>(list)->d_ilist, ii));
  atomKK->sync(Host, TAG_MASK);
  return atom->tag[i];
}

template <class DeviceType> void PairAllegroKokkos<DeviceType>::clear_peratom()
{
  const size_t all = atom->nlocal + atom->nghost;
  if (eflag_atom) d_eatom = Doubles("allegro:eatom", all);
  if (vflag_atom) d_vatom = Doubles("allegro:vatom", 6 * all);
  if (cvflag_atom) d_cvatom = Doubles("allegro:cvatom", 9 * all);
}

// LAMMPS reads per-atom energies and virials on the host.
template <class DeviceType> void PairAllegroKokkos<DeviceType>::collect_peratom()
{
  const size_t all = atom->nlocal + atom->nghost;
  auto host = [](const Doubles &view) { return Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), view); };
  if (all == 0) return;
  if (eflag_atom) {
    auto values = host(d_eatom);
    for (size_t k = 0; k < all; k++) eatom[k] += values(k);
  }
  if (vflag_atom) {
    auto values = host(d_vatom);
    for (size_t k = 0; k < 6 * all; k++) vatom[0][k] += values(k);
  }
  if (cvflag_atom) {
    auto values = host(d_cvatom);
    for (size_t k = 0; k < 9 * all; k++) cvatom[0][k] += values(k);
  }
}

namespace LAMMPS_NS {
template class PairAllegroKokkos<LMPDeviceType>;
#ifdef LMP_KOKKOS_GPU
template class PairAllegroKokkos<LMPHostType>;
#endif
}

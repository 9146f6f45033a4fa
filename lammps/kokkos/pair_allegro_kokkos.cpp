// The device-resident pair style: count, scan, fill, evaluate in place, scatter with atomics. One model, no committee.

#include "pair_allegro_kokkos.h"

#include "edge_potential.h"

#include "atom_masks.h"
#include "error.h"
#include "force.h"
#include "kokkos.h"
#include "neigh_request.h"
#include "neighbor.h"
#include "update.h"

#include <algorithm>
#include <climits>
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
    scatter(0, inum, edges);
  } else {
    auto offsets = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), d_offsets);
    for (int first = 0; first < inum;) {
      int last = first + 1;
      while (last < inum && offsets(last) - offsets(first) < max_edges) last++;
      const int64_t here = offsets(last) - offsets(first);
      fill(first, last, offsets(first), here);
      evaluate_chunk(last - first, here);
      scatter(first, last, here);
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
  typedef Kokkos::RangePolicy<DeviceType> Range;
  const Reader reader = this->reader();
  const int inum = list->inum;
  const double shortest = shortest_allowed_sq;
  const bool skips = rejects;

  if (static_cast<int>(d_offsets.extent(0)) < inum + 1) d_offsets = Integers("allegro:offsets", inum + 1);
  auto offsets = d_offsets;
  int wild = 0, near = 0;    // first centers with a position that is not finite, and with a neighbor too near
  Kokkos::parallel_reduce(
      "allegro:count", Range(0, inum),
      KOKKOS_LAMBDA(const int ii, int &first_wild, int &first_near) {
        const int i = reader.ilist(ii);
        for (int d = 0; d < 3; d++)
          if (!Kokkos::isfinite(reader.x(i, d)) && ii < first_wild) first_wild = ii;
        int64_t count = 0;
        if (reader.center_type(i) >= 0)
          for (int jj = 0; jj < reader.numneigh(i); jj++) {
            double r[3];
            const double rsq = reader.edge(i, reader.neighbors(i, jj) & NEIGHMASK, r);
            if (rsq < 0.0) continue;
            if (rsq < shortest && ii < first_near) first_near = ii;
            if (!(rsq < shortest && skips)) count++;
          }
        offsets(ii + 1) = count;
      },
      Kokkos::Min<int>(wild), Kokkos::Min<int>(near));
  if (wild < inum)
    error->one(FLERR, "pair_style allegro/kk, step {}: positions must be finite, got NaN or infinity for atom {}",
               update->ntimestep, tag_of(wild));
  if (near < inum && rejects)
    overlaps = 1;
  else if (near < inum)
    error->one(FLERR,
               "pair_style allegro/kk, step {}: atom {} and a neighbor overlap: distance must be at least {} Angstrom, got less",
               update->ntimestep, tag_of(near), std::sqrt(shortest_allowed_sq));
  Kokkos::parallel_scan("allegro:scan", Range(0, inum + 1), KOKKOS_LAMBDA(const int k, int64_t &sum, const bool last) {
    if (k > 0) sum += offsets(k);
    if (last) offsets(k) = sum;
  });
  int64_t edges = 0;
  Kokkos::deep_copy(edges, Kokkos::subview(offsets, inum));
  return edges;
}

// Edges sorted by center; neighbors are representatives of their types behind the centers.
template <class DeviceType>
void PairAllegroKokkos<DeviceType>::fill(int first, int last, int64_t start, int64_t edges)
{
  typedef Kokkos::RangePolicy<DeviceType> Range;
  const Reader reader = this->reader();
  const double skipped = rejects ? shortest_allowed_sq : 0.0;
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
  auto offsets = d_offsets;
  auto index = d_index;
  auto vectors = d_vectors;
  auto atoms = d_atoms;
  auto types = d_types;
  Kokkos::parallel_for("allegro:fill", Range(0, rows + kinds), KOKKOS_LAMBDA(const int row) {
    if (row >= rows) {
      types(row) = row - rows;
      return;
    }
    const int i = reader.ilist(first + row);
    const int itype = reader.center_type(i);
    types(row) = itype < 0 ? 0 : itype;
    if (itype < 0) return;
    int64_t e = offsets(first + row) - start;
    for (int jj = 0; jj < reader.numneigh(i); jj++) {
      const int j = reader.neighbors(i, jj) & NEIGHMASK;
      double r[3];
      if (reader.edge(i, j, r) < skipped) continue;
      for (int d = 0; d < 3; d++) vectors(3 * e + d) = r[d];
      index(e) = row;
      index(edges + e) = rows + reader.type_of(reader.type(j));
      atoms(e) = j;
      e++;
    }
  });
  Kokkos::fence();
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
                                     d_forces.data());
  } catch (const std::exception &e) {
    problem = e.what();
  }
  if (!problem.empty()) error->one(FLERR, "pair_style allegro/kk, step {}: {}", update->ntimestep, problem);
}

template <class DeviceType> void PairAllegroKokkos<DeviceType>::scatter(int first, int last, int64_t edges)
{
  typedef Kokkos::RangePolicy<DeviceType> Range;
  typedef Kokkos::RangePolicy<DeviceType, Kokkos::IndexType<int64_t>> EdgeRange;
  auto f = atomKK->k_f.template view<DeviceType>();
  const Reader reader = this->reader();
  const int rows = last - first;
  auto index = d_index;
  auto vectors = d_vectors;
  auto atoms = d_atoms;
  auto forces = d_forces;
  auto energies = d_energies;
  auto eatoms = d_eatom;
  auto vatoms = d_vatom;
  auto cvatoms = d_cvatom;
  const double scale = energy_scale;
  const bool per_atom = eflag_atom, virials = vflag_atom, centroids = cvflag_atom;

  int wild = INT_MAX, wild_force = INT_MAX;    // first centers whose energy, and edge force, is not finite
  double total = 0.0;
  Kokkos::parallel_reduce(
      "allegro:energy", Range(0, rows),
      KOKKOS_LAMBDA(const int row, double &sum, int &first_wild) {
        const int i = reader.ilist(first + row);
        if (reader.center_type(i) < 0) return;
        sum += energies(row);
        if (!Kokkos::isfinite(energies(row)) && row < first_wild) first_wild = row;
        if (per_atom) eatoms(i) = scale * energies(row);
      },
      total, Kokkos::Min<int>(wild));
  Kokkos::parallel_reduce(
      "allegro:forces", EdgeRange(0, edges),
      KOKKOS_LAMBDA(const int64_t e, int &first_wild) {
        const int row = static_cast<int>(index(e));
        const int i = reader.ilist(first + row), j = atoms(e);
        double g[3], r[3];
        for (int d = 0; d < 3; d++) {
          r[d] = vectors(3 * e + d);
          g[d] = scale * forces(3 * e + d);
          if (!Kokkos::isfinite(g[d]) && row < first_wild) first_wild = row;
          Kokkos::atomic_add(&f(i, d), static_cast<typename decltype(f)::value_type>(g[d]));
          Kokkos::atomic_add(&f(j, d), static_cast<typename decltype(f)::value_type>(-g[d]));
        }
        if (virials)
          for (int k = 0; k < 6; k++) {
            const int a = k < 3 ? k : (k == 5 ? 1 : 0), b = k < 3 ? k : (k == 3 ? 1 : 2);
            const double half = -0.25 * (r[a] * g[b] + r[b] * g[a]);
            Kokkos::atomic_add(&vatoms(6 * i + k), half);
            Kokkos::atomic_add(&vatoms(6 * j + k), half);
          }
        if (centroids) {    // xx, yy, zz, xy, xz, yz, yx, zx, zy; the whole edge belongs to its neighbor
          const int a[9] = {0, 1, 2, 0, 0, 1, 1, 2, 2}, b[9] = {0, 1, 2, 1, 2, 2, 0, 0, 1};
          for (int k = 0; k < 9; k++) Kokkos::atomic_add(&cvatoms(9 * j + k), -r[a[k]] * g[b[k]]);
        }
      },
      Kokkos::Min<int>(wild_force));
  if (std::min(wild, wild_force) < rows)
    error->one(FLERR,
               "pair_style allegro/kk, step {}: energies and forces must be finite, got NaN or infinity for the {} of "
               "atom {}", update->ntimestep, wild < rows ? "energy" : "edges",
               tag_of(first + (wild < rows ? wild : wild_force)));
  if (eflag_global) eng_vdwl += scale * total;
  if (vflag_global) {
    const int left[6] = {0, 1, 2, 0, 0, 1}, right[6] = {0, 1, 2, 1, 2, 2};
    for (int k = 0; k < 6; k++) {
      const int a = left[k], b = right[k];
      double sum = 0.0;
      Kokkos::parallel_reduce("allegro:virial", EdgeRange(0, edges), KOKKOS_LAMBDA(const int64_t e, double &s) {
        s -= 0.5 * scale * (vectors(3 * e + a) * forces(3 * e + b) + vectors(3 * e + b) * forces(3 * e + a));
      }, sum);
      virial[k] += sum;
    }
  }
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

// Edges on a Kokkos device: counted, written, and their forces summed back. A center is a warp's, its neighbors are lanes.

#ifndef MLIP_EDGE_KERNELS_H
#define MLIP_EDGE_KERNELS_H

#include <Kokkos_Core.hpp>

#include <climits>
#include <cstdint>

namespace mlip {

// Teams of several centers, a thread for each with a vector of lanes; on a host one of each.
template <class DeviceType> struct CenterTeams {
  typedef Kokkos::TeamPolicy<DeviceType> Policy;
  typedef typename Policy::member_type Member;
  static constexpr bool ON_HOST =
      Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename DeviceType::memory_space>::accessible;
  static constexpr int CENTERS = ON_HOST ? 1 : 8, LANES = ON_HOST ? 1 : 32;

  static Policy policy(int centers) { return Policy((centers + CENTERS - 1) / CENTERS, CENTERS, LANES); }
  KOKKOS_INLINE_FUNCTION static int center(const Member &team) { return team.league_rank() * CENTERS + team.team_rank(); }
};

// Row pointers offsets(0 ... centers) of the edges of all centers, and their number.
//
// A Reader knows ilist(ii), x(i, d), center_type(i), numneigh(i), neighbor(i, jj), neighbor_type(j), and
// edge(i, j, r), which is the square of the distance, or -1 beyond the cutoff.
// `wild` becomes the first center with a position that is not finite, `near` that with a neighbor nearer than
// allowed; neither is less than `centers` where there is none. Where `skips`, edges that are too short do not count.
template <class DeviceType, class Reader, class Offsets>
int64_t count_edges(const Reader &reader, int centers, double shortest_sq, bool skips, const Offsets &offsets, int &wild,
                    int &near)
{
  typedef CenterTeams<DeviceType> Teams;
  typedef typename Teams::Member Member;
  constexpr int64_t CLOSE = int64_t(1) << 40;    // one sum holds two counts
  Kokkos::parallel_reduce(
      "allegro:count", Teams::policy(centers),
      KOKKOS_LAMBDA(const Member &team, int &first_wild, int &first_near) {
        const int ii = Teams::center(team);
        if (ii >= centers) return;
        const int i = reader.ilist(ii);
        int64_t found = 0;
        if (reader.center_type(i) >= 0)
          Kokkos::parallel_reduce(
              Kokkos::ThreadVectorRange(team, reader.numneigh(i)),
              [&](const int jj, int64_t &sum) {
                double r[3];
                const double rsq = reader.edge(i, reader.neighbor(i, jj), r);
                if (rsq < 0.0) return;
                if (rsq < shortest_sq) sum += CLOSE;
                if (!(rsq < shortest_sq && skips)) sum += 1;
              },
              found);
        Kokkos::single(Kokkos::PerThread(team), [&]() {
          for (int d = 0; d < 3; d++)
            if (!(Kokkos::isfinite(reader.x(i, d))) && ii < first_wild) first_wild = ii;
          if (found >= CLOSE && ii < first_near) first_near = ii;
          offsets(ii + 1) = found % CLOSE;
        });
      },
      Kokkos::Min<int>(wild), Kokkos::Min<int>(near));
  int64_t edges = 0;
  Kokkos::parallel_scan(
      "allegro:scan", Kokkos::RangePolicy<DeviceType>(0, centers + 1),
      KOKKOS_LAMBDA(const int k, int64_t &sum, const bool last) {
        if (k > 0) sum += offsets(k);
        if (last) offsets(k) = sum;
      },
      edges);
  return edges;
}

// Writes the edges of centers [first, first + rows), which begin at offset `start`, in the order of their neighbors:
// vectors (edges, 3), index (2, edges) and atoms (edges), the neighbors themselves. index names rows; a neighbor's is
// the representative of its type, one of `kinds` rows behind the centers. types (rows + kinds).
template <class DeviceType, class Reader, class Integers, class Doubles, class Atoms>
void fill_edges(const Reader &reader, int first, int rows, int kinds, int64_t start, int64_t edges, double skipped_sq,
                const Integers &offsets, const Doubles &vectors, const Integers &index, const Integers &types,
                const Atoms &atoms)
{
  typedef CenterTeams<DeviceType> Teams;
  typedef typename Teams::Member Member;
  Kokkos::parallel_for(
      "allegro:fill", Teams::policy(rows + kinds), KOKKOS_LAMBDA(const Member &team) {
        const int row = Teams::center(team);
        if (row >= rows + kinds) return;
        const int i = row < rows ? reader.ilist(first + row) : 0;
        const int itype = row < rows ? reader.center_type(i) : row - rows;
        Kokkos::single(Kokkos::PerThread(team), [&]() { types(row) = itype < 0 ? 0 : itype; });
        if (row >= rows || itype < 0) return;
        const int64_t begin = offsets(first + row) - start;
        Kokkos::parallel_scan(
            Kokkos::ThreadVectorRange(team, reader.numneigh(i)),
            [&](const int jj, int64_t &place, const bool last) {
              const int j = reader.neighbor(i, jj);
              double r[3];
              if (reader.edge(i, j, r) < skipped_sq) return;
              if (last) {
                const int64_t e = begin + place;
                for (int d = 0; d < 3; d++) vectors(3 * e + d) = r[d];
                index(e) = row;
                index(edges + e) = rows + reader.neighbor_type(j);
                atoms(e) = j;
              }
              place += 1;
            });
      });
}

// What a scatter sums over all centers, in the model's energy unit; the first center whose energy, and whose force,
// is not finite.
struct Totals {
  double energy = 0.0, virial[6] = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0};
  int wild_energy = INT_MAX, wild_force = INT_MAX;

  KOKKOS_INLINE_FUNCTION Totals() {}
  KOKKOS_INLINE_FUNCTION void operator+=(const Totals &other)
  {
    energy += other.energy;
    for (int k = 0; k < 6; k++) virial[k] += other.virial[k];
    if (other.wild_energy < wild_energy) wild_energy = other.wild_energy;
    if (other.wild_force < wild_force) wild_force = other.wild_force;
  }
#if KOKKOS_VERSION < 40000    // older reductions join volatile values
  KOKKOS_INLINE_FUNCTION void operator+=(const volatile Totals &other) volatile
  {
    energy += other.energy;
    for (int k = 0; k < 6; k++) virial[k] += other.virial[k];
    if (other.wild_energy < wild_energy) wild_energy = other.wild_energy;
    if (other.wild_force < wild_force) wild_force = other.wild_force;
  }
#endif
};

// What a step wants besides forces.
struct Wanted {
  bool virial, atom_energies, atom_virials, centroid_virials;
};

// Adds edge forces (edges, 3) times `scale` to forces f(atom, 3), and what else is wanted; returns sums over all.
// A center's own part is summed over its edges first: one atomic addition per component and not one per edge.
template <class DeviceType, class Reader, class Integers, class Doubles, class Atoms, class Forces>
Totals scatter_edges(const Reader &reader, int first, int rows, int64_t start, double scale, Wanted wanted,
                     const Integers &offsets, const Doubles &vectors, const Doubles &forces, const Atoms &atoms,
                     const Doubles &energies, const Forces &f, const Doubles &eatoms, const Doubles &vatoms,
                     const Doubles &cvatoms)
{
  typedef CenterTeams<DeviceType> Teams;
  typedef typename Teams::Member Member;
  typedef typename Forces::non_const_value_type Force;
  Totals totals;
  Kokkos::parallel_reduce(
      "allegro:scatter", Teams::policy(rows),
      KOKKOS_LAMBDA(const Member &team, Totals &sums) {
        const int row = Teams::center(team);
        if (row >= rows) return;
        const int i = reader.ilist(first + row);
        if (reader.center_type(i) < 0) return;
        const int64_t begin = offsets(first + row) - start;
        const int count = static_cast<int>(offsets(first + row + 1) - start - begin);
        const int left[6] = {0, 1, 2, 0, 0, 1}, right[6] = {0, 1, 2, 1, 2, 2};
        double force[3] = {0.0, 0.0, 0.0}, virial[6] = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0};
        for (int d = 0; d < 3; d++)
          Kokkos::parallel_reduce(
              Kokkos::ThreadVectorRange(team, count),
              [&](const int k, double &sum) { sum += scale * forces(3 * (begin + k) + d); }, force[d]);
        if (wanted.virial || wanted.atom_virials)
          for (int k = 0; k < 6; k++) {
            const int a = left[k], b = right[k];
            Kokkos::parallel_reduce(
                Kokkos::ThreadVectorRange(team, count),
                [&](const int edge, double &sum) {
                  const int64_t e = 3 * (begin + edge);
                  sum -= 0.5 * scale * (vectors(e + a) * forces(e + b) + vectors(e + b) * forces(e + a));
                },
                virial[k]);
          }
        Kokkos::parallel_for(Kokkos::ThreadVectorRange(team, count), [&](const int edge) {
          const int64_t e = 3 * (begin + edge);
          const int j = atoms(begin + edge);
          for (int d = 0; d < 3; d++) Kokkos::atomic_add(&f(j, d), static_cast<Force>(-scale * forces(e + d)));
          if (wanted.atom_virials)
            for (int k = 0; k < 6; k++) {
              const int a = left[k], b = right[k];
              Kokkos::atomic_add(&vatoms(6 * j + k), -0.25 * scale *
                                     (vectors(e + a) * forces(e + b) + vectors(e + b) * forces(e + a)));
            }
          if (wanted.centroid_virials) {    // xx, yy, zz, xy, xz, yz, yx, zx, zy; the edge belongs to its neighbor
            const int a[9] = {0, 1, 2, 0, 0, 1, 1, 2, 2}, b[9] = {0, 1, 2, 1, 2, 2, 0, 0, 1};
            for (int k = 0; k < 9; k++)
              Kokkos::atomic_add(&cvatoms(9 * j + k), -scale * vectors(e + a[k]) * forces(e + b[k]));
          }
        });
        Kokkos::single(Kokkos::PerThread(team), [&]() {
          for (int d = 0; d < 3; d++) Kokkos::atomic_add(&f(i, d), static_cast<Force>(force[d]));
          if (wanted.atom_virials)
            for (int k = 0; k < 6; k++) Kokkos::atomic_add(&vatoms(6 * i + k), 0.5 * virial[k]);
          if (wanted.atom_energies) eatoms(i) = scale * energies(row);
          sums.energy += scale * energies(row);
          if (wanted.virial)
            for (int k = 0; k < 6; k++) sums.virial[k] += virial[k];
          if (!Kokkos::isfinite(energies(row)) && row < sums.wild_energy) sums.wild_energy = row;
          // a sum with a part that is not finite is not finite
          if (!Kokkos::isfinite(force[0] + force[1] + force[2]) && row < sums.wild_force)
            sums.wild_force = row;
        });
      },
      totals);
  return totals;
}

}    // namespace mlip

#endif

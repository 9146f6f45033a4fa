// The kernels of allegro/kk against plain loops, on random neighbor lists; prints "equal".

#include <Kokkos_Core.hpp>
#if KOKKOS_VERSION < 30700
namespace Kokkos {
using Experimental::isfinite;
}
#endif

#include "edge_kernels.h"

#include <cmath>
#include <cstdlib>
#include <iostream>
#include <limits>
#include <random>
#include <vector>

typedef Kokkos::DefaultHostExecutionSpace Device;
typedef Kokkos::View<double *, Kokkos::LayoutRight, Device> Doubles;
typedef Kokkos::View<int64_t *, Kokkos::LayoutRight, Device> Integers;
typedef Kokkos::View<int *, Kokkos::LayoutRight, Device> Ints;
typedef Kokkos::View<double **, Kokkos::LayoutRight, Device> Rows;

constexpr int ATOMS = 60, CENTERS = 37, KINDS = 3, NEIGHBORS = 25;
constexpr double CUTOFF_SQ = 0.35, SHORTEST_SQ = 0.002;

struct Reader {
  Rows x;
  Ints ilist, numneigh, list, type;
  int neighbor(int i, int jj) const { return list(i * NEIGHBORS + jj); }
  int neighbor_type(int j) const { return type(j); }
  int center_type(int i) const { return i % 7 == 3 ? -1 : type(i); }    // some are another style's
  double edge(int i, int j, double *r) const
  {
    double rsq = 0.0;
    for (int d = 0; d < 3; d++) r[d] = x(j, d) - x(i, d), rsq += r[d] * r[d];
    return rsq < CUTOFF_SQ ? rsq : -1.0;
  }
};

void check(bool right, const char *what)
{
  if (right) return;
  std::cout << "differs: " << what << std::endl;
  std::exit(1);
}

bool same(double a, double b) { return std::abs(a - b) <= 1e-12 * (1.0 + std::abs(b)); }

void run(bool skips)
{
  std::mt19937 random(skips ? 1 : 2);
  std::uniform_real_distribution<double> uniform(0.0, 1.0);
  Reader reader{Rows("x", ATOMS, 3), Ints("ilist", CENTERS), Ints("numneigh", ATOMS), Ints("list", ATOMS * NEIGHBORS),
                Ints("type", ATOMS)};
  for (int i = 0; i < ATOMS; i++) {
    for (int d = 0; d < 3; d++) reader.x(i, d) = uniform(random);
    reader.type(i) = random() % KINDS;
    reader.numneigh(i) = i == 5 ? 0 : random() % NEIGHBORS;
    for (int jj = 0; jj < reader.numneigh(i); jj++) {
      const int j = random() % ATOMS;
      reader.list(i * NEIGHBORS + jj) = j == i ? (j + 1) % ATOMS : j;
    }
  }
  for (int ii = 0; ii < CENTERS; ii++) reader.ilist(ii) = (ii * 2) % ATOMS;
  for (int d = 0; d < 3; d++) reader.x(1, d) = reader.x(0, d);
  reader.numneigh(0) = 2;    // of which one is too near
  reader.list(0) = 1;

  std::vector<int64_t> row, neighbor;
  std::vector<double> vector, offset = {0};
  int nearest = std::numeric_limits<int>::max();
  for (int ii = 0; ii < CENTERS; ii++) {
    const int i = reader.ilist(ii);
    for (int jj = 0; jj < (reader.center_type(i) < 0 ? 0 : reader.numneigh(i)); jj++) {
      double r[3];
      const double rsq = reader.edge(i, reader.neighbor(i, jj), r);
      if (rsq >= 0.0 && rsq < SHORTEST_SQ) nearest = std::min(nearest, ii);
      if (rsq < 0.0 || (skips && rsq < SHORTEST_SQ)) continue;
      row.push_back(ii);
      neighbor.push_back(reader.neighbor(i, jj));
      vector.insert(vector.end(), r, r + 3);
    }
    offset.push_back(static_cast<double>(row.size()));
  }

  Integers offsets("offsets", CENTERS + 1);
  int wild = 0, near = 0;
  const int64_t total = mlip::count_edges<Device>(reader, CENTERS, SHORTEST_SQ, skips, offsets, wild, near);
  check(total == static_cast<int64_t>(row.size()) && total > 100, "number of edges");
  check(wild >= CENTERS && near == nearest && near == 0, "first wild and near centers");
  for (int ii = 0; ii <= CENTERS; ii++) check(offsets(ii) == static_cast<int64_t>(offset[ii]), "offsets");

  Rows f("f", ATOMS, 3);
  Doubles eatoms("eatoms", ATOMS), vatoms("vatoms", 6 * ATOMS), cvatoms("cvatoms", 9 * ATOMS);
  Rows force("force", ATOMS, 3);
  Doubles energy("energy", ATOMS), vatom("vatom", 6 * ATOMS), cvatom("cvatom", 9 * ATOMS);
  double virial[6] = {}, energies_sum = 0.0, found_virial[6] = {}, found_energy = 0.0;
  const int a[9] = {0, 1, 2, 0, 0, 1, 1, 2, 2}, b[9] = {0, 1, 2, 1, 2, 2, 0, 0, 1};
  const double scale = 1.7;
  for (int first = 0; first < CENTERS; first += 20) {    // in two chunks
    const int last = std::min(first + 20, CENTERS), rows = last - first;
    const int64_t start = offsets(first), edges = offsets(last) - start;
    Doubles vectors("vectors", 3 * edges), forces("forces", 3 * edges), energies("energies", rows + KINDS);
    Integers index("index", 2 * edges), types("types", rows + KINDS);
    Ints atoms("atoms", edges);
    mlip::fill_edges<Device>(reader, first, rows, KINDS, start, edges, skips ? SHORTEST_SQ : 0.0, offsets, vectors,
                             index, types, atoms);
    for (int64_t e = 0; e < edges; e++) {
      check(index(e) == row[start + e] - first && atoms(e) == neighbor[start + e], "centers and neighbors");
      check(index(edges + e) == rows + reader.type(atoms(e)), "representatives");
      for (int d = 0; d < 3; d++) check(vectors(3 * e + d) == vector[3 * (start + e) + d], "vectors");
    }
    for (int r = 0; r < rows + KINDS; r++) {
      const int expected = r < rows ? reader.center_type(reader.ilist(first + r)) : r - rows;
      check(types(r) == (expected < 0 ? 0 : expected), "types");
      energies(r) = uniform(random);
    }
    for (int64_t k = 0; k < 3 * edges; k++) forces(k) = uniform(random) - 0.5;
    const auto scatter = [&](mlip::Wanted wanted) {
      return mlip::scatter_edges<Device>(reader, first, rows, start, scale, wanted, offsets, vectors, forces, atoms,
                                         energies, f, eatoms, vatoms, cvatoms);
    };
    const mlip::Totals totals = scatter({true, true, true, true});
    check(totals.wild_energy >= rows && totals.wild_force >= rows, "finite");
    found_energy += totals.energy;
    for (int k = 0; k < 6; k++) found_virial[k] += totals.virial[k];
    for (int r = 0; r < rows; r++) {
      const int i = reader.ilist(first + r);
      if (reader.center_type(i) < 0) continue;
      energies_sum += scale * energies(r);
      energy(i) = scale * energies(r);
    }
    for (int64_t e = 0; e < edges; e++) {
      const int i = reader.ilist(static_cast<int>(row[start + e])), j = atoms(e);
      const double *r = &vectors(3 * e), *g = &forces(3 * e);
      for (int d = 0; d < 3; d++) force(i, d) += scale * g[d], force(j, d) -= scale * g[d];
      for (int k = 0; k < 6; k++) {
        const double whole = -0.5 * scale * (r[a[k]] * g[b[k]] + r[b[k]] * g[a[k]]);
        virial[k] += whole;
        vatom(6 * i + k) += 0.5 * whole;
        vatom(6 * j + k) += 0.5 * whole;
      }
      for (int k = 0; k < 9; k++) cvatom(9 * j + k) -= scale * r[a[k]] * g[b[k]];
    }
    if (last == CENTERS) {    // the first center that is not finite, energy or force; these sums are thrown away
      Rows before("before", ATOMS, 3);
      Kokkos::deep_copy(before, f);
      int owner = 0;
      while (offsets(first + owner + 1) == start) owner++;
      forces(1) = std::numeric_limits<double>::infinity();
      check(scatter({false, false, false, false}).wild_force == owner, "infinite force");
      energies(2) = std::nan("");
      int named = reader.center_type(reader.ilist(first + 2)) < 0 ? std::numeric_limits<int>::max() : 2;
      check(scatter({false, false, false, false}).wild_energy == named, "NaN energy");
      Kokkos::deep_copy(f, before);
    }
  }
  check(same(found_energy, energies_sum), "energy");
  for (int k = 0; k < 6; k++) check(same(found_virial[k], virial[k]), "virial");
  for (int i = 0; i < ATOMS; i++) {
    for (int d = 0; d < 3; d++) check(same(f(i, d), force(i, d)), "forces");
    check(same(eatoms(i), energy(i)), "energies of atoms");
    for (int k = 0; k < 6; k++) check(same(vatoms(6 * i + k), vatom(6 * i + k)), "virials of atoms");
    for (int k = 0; k < 9; k++) check(same(cvatoms(9 * i + k), cvatom(9 * i + k)), "centroid virials");
  }
  reader.x(reader.ilist(4), 1) = std::nan("");
  mlip::count_edges<Device>(reader, CENTERS, SHORTEST_SQ, skips, offsets, wild, near);
  check(wild == 4, "position that is not finite");
}

int main(int argc, char **argv)
{
  Kokkos::initialize(argc, argv);
  run(true);
  run(false);
  Kokkos::finalize();
  std::cout << "equal" << std::endl;
}

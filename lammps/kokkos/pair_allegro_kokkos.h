// pair_style allegro/kk: positions, edges and forces stay on the device. Needs LAMMPS's KOKKOS package and its headers.

#ifdef PAIR_CLASS
// clang-format off
PairStyle(allegro/kk,PairAllegroKokkos<LMPDeviceType>);
PairStyle(allegro/kk/device,PairAllegroKokkos<LMPDeviceType>);
PairStyle(allegro/kk/host,PairAllegroKokkos<LMPHostType>);
// clang-format on
#else

// clang-format off
#ifndef LMP_PAIR_ALLEGRO_KOKKOS_H
#define LMP_PAIR_ALLEGRO_KOKKOS_H
// clang-format on

#include "atom_kokkos.h"
#include "kokkos_type.h"
#include "neigh_list_kokkos.h"
#include "pair_allegro.h"
#include "pair_kokkos.h"

#include <utility>

namespace LAMMPS_NS {

template <class DeviceType> class PairAllegroKokkos : public PairAllegro {
 public:
  typedef DeviceType device_type;
  typedef ArrayTypes<DeviceType> AT;

  PairAllegroKokkos(class LAMMPS *);
  void compute(int, int) override;
  void init_style() override;

  // what kernels read of atoms and their neighbors; public, as nvcc wants types of kernels
  typedef Kokkos::View<double *, Kokkos::LayoutRight, DeviceType> Doubles;
  typedef Kokkos::View<int64_t *, Kokkos::LayoutRight, DeviceType> Integers;
  // the model reads and writes memory of DeviceType where it lies, or host memory
  static constexpr bool ON_HOST =
      Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename DeviceType::memory_space>::accessible;

  template <class Dual> using OnDevice = decltype(std::declval<Dual &>().template view<DeviceType>());

  struct Reader {
    OnDevice<decltype(AtomKokkos::k_x)> x;
    OnDevice<decltype(AtomKokkos::k_type)> type;
    OnDevice<decltype(AtomKokkos::k_mask)> mask;
    decltype(NeighListKokkos<DeviceType>::d_ilist) ilist;
    decltype(NeighListKokkos<DeviceType>::d_numneigh) numneigh;
    decltype(NeighListKokkos<DeviceType>::d_neighbors) neighbors;
    Kokkos::View<int *, DeviceType> type_of;
    Doubles cutoffs_sq;
    int ntypes, hidden;

    KOKKOS_INLINE_FUNCTION int neighbor(int i, int jj) const { return neighbors(i, jj) & NEIGHMASK; }
    KOKKOS_INLINE_FUNCTION int neighbor_type(int j) const { return type_of(type(j)); }

    // model's type of a center; -1 for another style's atoms and for those of a hidden group
    KOKKOS_INLINE_FUNCTION int center_type(int i) const { return (mask(i) & hidden) ? -1 : type_of(type(i)); }

    // the edge from i to j, and its square where it is within the cutoff, else -1
    KOKKOS_INLINE_FUNCTION double edge(int i, int j, double *r) const
    {
      for (int d = 0; d < 3; d++) r[d] = x(j, d) - x(i, d);
      const double rsq = r[0] * r[0] + r[1] * r[1] + r[2] * r[2];
      return rsq < cutoffs_sq(type(i) * (ntypes + 1) + type(j)) ? rsq : -1.0;
    }
  };

 protected:
  int local_rank() override;

 private:
  int64_t count();                          // row pointers of all centers, and checks of the geometry
  void fill(int, int, int64_t, int64_t);    // edges of centers [first, last), which start at an offset
  void evaluate_chunk(int, int64_t);
  void scatter(int, int, int64_t);
  void *const *kokkos_stream();             // on which torch can run too, else none

  Kokkos::View<int *, DeviceType> d_type_of;     // model's type of each LAMMPS type, -1 for NULL
  Doubles d_cutoffs_sq;                          // [center][neighbor] by LAMMPS type
  Integers d_offsets, d_index, d_types;          // row pointer of all centers, (2, E), (n + T)
  Kokkos::View<int *, DeviceType> d_atoms;       // (E) local or ghost atom of each neighbor
  Doubles d_vectors, d_energies, d_forces;       // (E, 3), (n + T), (E, 3)
  Doubles d_eatom, d_vatom, d_cvatom;            // (nall), (nall, 6), (nall, 9), of the present step
  void *stream = nullptr;

  Reader reader();
  tagint tag_of(int);
  void clear_peratom();
  void collect_peratom();
};

}    // namespace LAMMPS_NS

#endif
#endif

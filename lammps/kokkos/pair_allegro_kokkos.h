// pair_style allegro/kk: positions, edges and forces stay on the device. Needs LAMMPS's KOKKOS package and its headers.

#ifdef PAIR_CLASS
// clang-format off
PairStyle(allegro/kk,PairAllegroKokkos<LMPDeviceType>);
PairStyle(allegro/kk/device,PairAllegroKokkos<LMPDeviceType>);
// clang-format on
#else

// clang-format off
#ifndef LMP_PAIR_ALLEGRO_KOKKOS_H
#define LMP_PAIR_ALLEGRO_KOKKOS_H
// clang-format on

#include "kokkos_type.h"
#include "neigh_list_kokkos.h"
#include "pair_allegro.h"
#include "pair_kokkos.h"

namespace LAMMPS_NS {

template <class DeviceType> class PairAllegroKokkos : public PairAllegro {
 public:
  typedef DeviceType device_type;
  typedef ArrayTypes<DeviceType> AT;

  PairAllegroKokkos(class LAMMPS *);
  void compute(int, int) override;
  void init_style() override;

 private:
  typedef Kokkos::View<double *, Kokkos::LayoutRight, DeviceType> Doubles;
  typedef Kokkos::View<int64_t *, Kokkos::LayoutRight, DeviceType> Integers;

  Kokkos::View<int *, DeviceType> d_type_of;     // model's type of each LAMMPS type, -1 for NULL
  Doubles d_cutoffs_sq;                          // [centre][neighbour] by LAMMPS type
  Integers d_offsets, d_index, d_types;          // row pointer, (2, E), (n + T)
  Kokkos::View<int *, DeviceType> d_atoms;       // (E) local or ghost atom of each neighbour
  Doubles d_vectors, d_energies, d_forces;       // (E, 3), (n + T), (E, 3)
};

}    // namespace LAMMPS_NS

#endif
#endif

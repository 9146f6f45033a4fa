// pair_style allegro: any potential exported by mlip-export, with domain decomposition, per-atom virials and committees.

#ifdef PAIR_CLASS
// clang-format off
PairStyle(allegro,PairAllegro);
// clang-format on
#else

#ifndef LMP_PAIR_ALLEGRO_H
#define LMP_PAIR_ALLEGRO_H

#include "pair.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace mlip {
class EdgePotential;
}

namespace LAMMPS_NS {

class PairAllegro : public Pair {
 public:
  PairAllegro(class LAMMPS *);
  ~PairAllegro() override;

  void compute(int, int) override;
  void settings(int, char **) override;
  void coeff(int, char **) override;
  void init_style() override;
  void setup() override;
  double init_one(int, int) override;
  int pack_reverse_comm(int, int, double *) override;
  void unpack_reverse_comm(int, int *, double *) override;
  double memory_usage() override;
  void *extract(const char *, int &) override;
  void *extract_peratom(const char *, int &) override;

 protected:
  static constexpr double REJECTED = 1e8;    // eV per overlap of a trial configuration: exp(-E/kT) is 0
  enum class Overlap { AUTO, ERROR, REJECT };

  // one call's worth of edges, by whole centers
  struct Chunk {
    std::vector<double> vectors;         // (E, 3)
    std::vector<int64_t> index;          // (2, E) once closed: row 0 filled while gathering, row 1 appended
    std::vector<int64_t> neighbor;      // (E) representative of each neighbor's type, counted from 0
    std::vector<int64_t> types;          // (n + T)
    std::vector<int> centers;            // atom of each row
    std::vector<int> atoms;              // (E) local or ghost atom of each neighbor
    std::vector<double> energies;        // (n + T), mean
    std::vector<double> edge_forces;     // (E, 3), mean
    std::vector<double> member_energies, member_forces;
    void clear();
  };

  std::vector<std::unique_ptr<mlip::EdgePotential>> members;
  Chunk chunk;
  std::vector<int> type_of;              // model's type of each LAMMPS type, -1 for NULL
  std::vector<double> cutoffs_sq;        // [center][neighbor] by LAMMPS type
  bigint chosen_edges, max_edges;        // edges per call: of the pair_style command (0: none), and in use
  Overlap overlap;                       // what atoms nearer than shortest_allowed do
  int hidden_groups;                     // bits of groups that neigh_modify excludes from all: their atoms are absent
  bool rejects;                          // overlaps give a very large energy
  bigint overlaps;                       // neighbors that overlapped their center in this call
  double largest_cutoff;
  double energy_unit;                    // LAMMPS energy unit per eV
  double scale;                          // factor of fix adapt, for thermodynamic integration
  double energy_scale;                   // their product, in this call
  double shortest_allowed_sq;

  int spread_max;                        // allocated atoms of the arrays below
  std::vector<double> force_of_member;   // (members, spread_max, 3), only with more than one member
  double *force_spread, *energy_spread;  // (spread_max)
  double largest_force_spread;           // on this rank
  size_t reversed;                       // member whose forces on ghosts are on their way

  void allocate();
  virtual int local_rank();
  void check_positions();
  std::string what_is_not_finite();
  void prepare_trial();
  void grow_spread();
  void gather(int);
  void evaluate();
  void scatter();
  void finish_spread();
};

}    // namespace LAMMPS_NS

#endif
#endif

// The LAMMPS side: neighbor list to edges, edge forces back to forces, energies and virials. Knows nothing of torch.

#include "pair_allegro.h"

#include "edge_potential.h"

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "group.h"
#include "memory.h"
#include "modify.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "universe.h"
#include "update.h"
#include "utils.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <string>

using namespace LAMMPS_NS;

namespace {
bool is_model(const char *name)
{
  const size_t n = std::strlen(name);
  return n > 4 && std::strcmp(name + n - 4, ".pt2") == 0;
}
}    // namespace

/* ---------------------------------------------------------------------- */

PairAllegro::PairAllegro(LAMMPS *lmp) :
    Pair(lmp), chosen_edges(0), max_edges(0), overlap(Overlap::AUTO), hidden_groups(0), rejects(false), overlaps(0),
    largest_cutoff(0.0), energy_unit(1.0), scale(1.0), energy_scale(1.0),
    shortest_allowed_sq(0.0), spread_max(0), force_spread(nullptr), energy_spread(nullptr),
    largest_force_spread(0.0), reversed(0)
{
  single_enable = 0;
  restartinfo = 0;
  one_coeff = 1;
  manybody_flag = 1;
  unit_convert_flag = 0;
  no_virial_fdotr_compute = 1;
  centroidstressflag = CENTROID_AVAIL;
  comm_reverse = 3;    // one member's forces at a time; hybrid styles read this before pair_coeff
}

PairAllegro::~PairAllegro()
{
  if (copymode) return;
  if (allocated) {
    memory->destroy(setflag);
    memory->destroy(cutsq);
  }
  memory->destroy(force_spread);
  memory->destroy(energy_spread);
}

void PairAllegro::allocate()
{
  const int n = atom->ntypes;
  memory->create(setflag, n + 1, n + 1, "pair:setflag");
  memory->create(cutsq, n + 1, n + 1, "pair:cutsq");
  for (int i = 0; i <= n; i++)
    for (int j = 0; j <= n; j++) {
      setflag[i][j] = 0;
      cutsq[i][j] = 0.0;
    }
  map = new int[n + 1];
  for (int i = 0; i <= n; i++) map[i] = -1;
  allocated = 1;
}

/* pair_style allegro [edges N] [overlap auto|error|reject]
   N = edges evaluated per call, which bounds memory
   overlap = what atoms nearer than the model's shortest distance (0.1 Angstrom) do: stop the run, or give the configuration a very large energy, as
             trial insertions need it; auto rejects where fix gcmc or fix widom make trials, and stops elsewhere */

void PairAllegro::settings(int narg, char **arg)
{
  bigint chosen = 0;
  Overlap how = Overlap::AUTO;
  for (int iarg = 0; iarg < narg; iarg += 2) {
    const std::string key = arg[iarg];
    if (key != "edges" && key != "overlap")
      error->all(FLERR, "pair_style allegro: keyword must be edges or overlap, got '{}'", key);
    if (iarg + 1 >= narg) error->all(FLERR, "pair_style allegro: keyword '{}' must be followed by a value, got none", key);
    const std::string value = arg[iarg + 1];
    if (key == "edges") {
      chosen = utils::bnumeric(FLERR, value, false, lmp);
      if (chosen < 1) error->all(FLERR, "pair_style allegro: edges must be at least 1, got {}", chosen);
    } else if (value == "auto" || value == "error" || value == "reject") {
      how = value == "auto" ? Overlap::AUTO : (value == "error" ? Overlap::ERROR : Overlap::REJECT);
    } else {
      error->all(FLERR, "pair_style allegro: overlap must be auto, error or reject, got '{}'", value);
    }
  }
  overlap = how;
  chosen_edges = chosen;
}

/* pair_coeff * * model.pt2 [model2.pt2 ...] element-of-type-1 element-of-type-2 ...   (NULL: not this potential's) */

void PairAllegro::coeff(int narg, char **arg)
{
  if (!allocated) allocate();
  if (narg < 4) error->all(FLERR, "pair_coeff for allegro must be * * model.pt2 and one element per atom type, got {} words", narg);
  int models = 0;
  while (2 + models < narg && is_model(arg[2 + models])) models++;
  if (models == 0)
    error->all(FLERR, "pair_coeff for allegro: model must be a file ending in .pt2, got '{}'", arg[2]);

  mlip::set_threads(comm->nthreads);
  std::vector<std::unique_ptr<mlip::EdgePotential>> loaded;    // kept at the end: a failure changes nothing
  const int rank_here = local_rank();
  std::string problem;
  try {
    for (int k = 0; k < models; k++)
      loaded.push_back(std::make_unique<mlip::EdgePotential>(arg[2 + k], rank_here));
  } catch (const std::exception &e) {
    problem = e.what();
  }
  const int bad = problem.empty() ? 0 : 1;
  int any_bad = 0;
  MPI_Allreduce(&bad, &any_bad, 1, MPI_INT, MPI_MAX, world);
  if (bad) error->one(FLERR, "pair_coeff for allegro: {}", problem);
  if (any_bad) error->all(FLERR, "pair_coeff for allegro: a model did not load on another rank");

  const auto &info = loaded[0]->info();
  for (int k = 1; k < models; k++)
    if (loaded[k]->info().type_names != info.type_names || loaded[k]->info().cutoffs != info.cutoffs)
      error->all(FLERR, "pair_coeff for allegro: committee must have equal elements and cutoffs, got {} beside {}",
                 arg[2 + k], arg[2]);

  map_element2type(narg - 2 - models, arg + 2 + models, false);
  const int n = atom->ntypes;
  const auto &names = info.type_names;
  std::vector<int> types(n + 1, -1);
  for (int i = 1; i <= n; i++) {
    if (map[i] < 0) continue;
    const auto found = std::find(names.begin(), names.end(), elements[map[i]]);
    if (found == names.end()) {
      std::string known;
      for (const auto &name : names) known += " " + name;
      error->all(FLERR, "pair_coeff for allegro: elements must be among those of {}:{}, got {}", arg[2], known,
                 elements[map[i]]);
    }
    types[i] = static_cast<int>(found - names.begin());
  }
  std::vector<double> squares((n + 1) * (n + 1), 0.0);
  double largest = 0.0;
  for (int i = 1; i <= n; i++)
    for (int j = 1; j <= n; j++)
      if (types[i] >= 0 && types[j] >= 0) {
        const double cut = info.cutoffs[types[i] * names.size() + types[j]];
        squares[i * (n + 1) + j] = cut * cut;
        largest = std::max(largest, cut);
      }
  map_element2type(narg - 2 - models, arg + 2 + models);
  members = std::move(loaded);
  type_of = std::move(types);
  cutoffs_sq = std::move(squares);
  largest_cutoff = largest;
  if (models > 1) grow_spread();

  if (comm->me == 0) {
    std::string list;
    for (const auto &name : names) list += " " + name;
    utils::logmesg(lmp, "Exported model {}: {}, {}{}, {} ({}), cutoff {} Angstrom, elements{}{}\n", arg[2], info.model,
                   info.dtype, info.precision == "float32" ? "" : " with " + info.precision + " products", info.device, info.isa, info.cutoff, list,
                   models > 1 ? fmt::format(", committee of {}", models) : std::string());
  }
}

void PairAllegro::init_style()
{
  if (members.empty()) error->all(FLERR, "pair_style allegro: pair_coeff must name an exported model, got no such command");
  const auto &info = members[0]->info();
  if (chosen_edges > info.max_edges)
    error->all(FLERR, "pair_style allegro: edges must be at most {}, which the model's code indexes, got {}", info.max_edges,
               chosen_edges);
  max_edges = chosen_edges > 0 ? chosen_edges : info.edges_per_call;
  shortest_allowed_sq = info.shortest_distance * info.shortest_distance;
  if (std::strcmp(update->unit_style, "metal") == 0)
    energy_unit = 1.0;
  else if (std::strcmp(update->unit_style, "real") == 0)
    energy_unit = utils::get_conversion_factor(utils::ENERGY, utils::METAL2REAL);
  else
    error->all(FLERR, "pair_style allegro: units must be metal or real, got {}", update->unit_style);
  if (force->newton_pair == 0) error->all(FLERR, "pair_style allegro: newton pair must be on, got off");
  const bool in_hybrid = utils::strmatch(force->pair_style, "^hybrid");    // where the factors are for other styles
  if (atom->molecular != Atom::ATOMIC)
    for (int k = 1; k <= 3; k++)
      if (force->special_lj[k] == 0.0 && force->special_coul[k] == 0.0)
        error->all(FLERR,
                   "pair_style allegro: special_bonds must be lj/coul 1.0 1.0 1.0 with bonded atom styles, got 0.0, which drops "
                   "1-{} neighbors from the list", k + 1);
      else if ((force->special_lj[k] != 1.0 || force->special_coul[k] != 1.0) && !in_hybrid && comm->me == 0)
        error->warning(FLERR,
                       "pair_style allegro: 1-{} neighbors count in full; special_bonds must be lj/coul 1.0 1.0 1.0 to state "
                       "it, got lj {} and coul {}", k + 1, force->special_lj[k],
                       force->special_coul[k]);
  // an atom's energy depends on all of its neighbors at once; only a group hidden from all atoms is simply absent
  bool partial = neighbor->nex_type > 0 || neighbor->nex_mol > 0;
  for (int k = 0; k < neighbor->nex_group; k++) partial |= neighbor->ex1_group[k] != 0 && neighbor->ex2_group[k] != 0;
  if (partial)
    error->all(FLERR, "pair_style allegro: every neighbor within the cutoff must be in the list, got neigh_modify exclude (an "
               "atom's energy is no sum over pairs, so forces would be wrong)");
  rejects = overlap == Overlap::REJECT;
  if (overlap == Overlap::AUTO)
    rejects = !modify->get_fix_by_style("^gcmc").empty() || !modify->get_fix_by_style("^widom").empty();
  neighbor->add_request(this, NeighConst::REQ_FULL);
}

void PairAllegro::setup()
{
  const double reach = comm->get_comm_cutoff();
  if (reach < largest_cutoff)
    error->all(FLERR, "pair_style allegro: communication cutoff must be at least {}, got {}", largest_cutoff, reach);
}

double PairAllegro::init_one(int i, int j)
{
  if (setflag[i][j] == 0) error->all(FLERR, "pair_style allegro: all pair coeffs are not set");
  const int n = atom->ntypes;
  return std::sqrt(std::max(cutoffs_sq[i * (n + 1) + j], cutoffs_sq[j * (n + 1) + i]));
}

/* ---------------------------------------------------------------------- */

void PairAllegro::compute(int eflag, int vflag)
{
  ev_init(eflag, vflag);
  prepare_trial();
  const int nall = atom->nlocal + atom->nghost;
  if (members.size() > 1) {
    grow_spread();
    force_of_member.assign(static_cast<size_t>(members.size()) * spread_max * 3, 0.0);
    std::fill(energy_spread, energy_spread + nall, 0.0);
    std::fill(force_spread, force_spread + nall, 0.0);
  }

  std::string problem;
  try {
    check_positions();
    chunk.clear();
    for (int ii = 0; ii < list->inum; ii++) {
      gather(list->ilist[ii]);
      if (static_cast<bigint>(chunk.atoms.size()) >= max_edges || ii + 1 == list->inum) {
        evaluate();
        scatter();
        chunk.clear();
      }
    }
  } catch (const std::exception &e) {
    problem = e.what();
  }
  if (!problem.empty()) error->one(FLERR, "pair_style allegro, step {}: {}", update->ntimestep, problem);
  if (overlaps > 0 && eflag_global) eng_vdwl += energy_unit * REJECTED * overlaps;
  if (members.size() > 1) {
    for (reversed = 0; reversed < members.size(); reversed++) comm->reverse_comm(this);
    finish_spread();
  }
}

// Which atoms are absent now, for fixes that delete atoms on trial; no overlaps seen yet; the factor of fix adapt.
void PairAllegro::prepare_trial()
{
  if (!std::isfinite(scale)) error->all(FLERR, "pair_style allegro: scale must be finite, got {}", scale);
  energy_scale = energy_unit * scale;
  hidden_groups = 0;    // fix gcmc deletes on trial by neigh_modify exclude group G all
  for (int k = 0; k < neighbor->nex_group; k++)
    if (neighbor->ex1_group[k] == 0 || neighbor->ex2_group[k] == 0)
      hidden_groups |= group->bitmask[neighbor->ex1_group[k] == 0 ? neighbor->ex2_group[k] : neighbor->ex1_group[k]];
  overlaps = 0;
}

void PairAllegro::grow_spread()
{
  if (spread_max > 0 && atom->nmax <= spread_max) return;
  spread_max = std::max(atom->nmax, 1);
  memory->destroy(force_spread);
  memory->destroy(energy_spread);
  memory->create(force_spread, spread_max, "pair:force_spread");
  memory->create(energy_spread, spread_max, "pair:energy_spread");
  std::fill(force_spread, force_spread + spread_max, 0.0);
  std::fill(energy_spread, energy_spread + spread_max, 0.0);
}

void PairAllegro::Chunk::clear()
{
  vectors.clear();
  index.clear();
  neighbor.clear();
  types.clear();
  centers.clear();
  atoms.clear();
}

void PairAllegro::check_positions()
{
  double **x = atom->x;
  for (int i = 0; i < atom->nlocal; i++)
    for (int d = 0; d < 3; d++)
      if (!std::isfinite(x[i][d]))
        throw std::runtime_error(
            fmt::format("positions must be finite, got {} {} {} for atom {}", x[i][0], x[i][1], x[i][2], atom->tag[i]));
}

// Append one center and its neighbors within the model's cutoffs.
void PairAllegro::gather(int i)
{
  double **x = atom->x;
  const int *type = atom->type;
  const int itype = type[i];
  if (type_of[itype] < 0 || (atom->mask[i] & hidden_groups)) return;
  const int64_t row = static_cast<int64_t>(chunk.centers.size());
  chunk.centers.push_back(i);
  chunk.types.push_back(type_of[itype]);
  const double *cut = &cutoffs_sq[itype * (atom->ntypes + 1)];
  const double xi = x[i][0], yi = x[i][1], zi = x[i][2];
  const int *jlist = list->firstneigh[i];
  const int jnum = list->numneigh[i];
  for (int jj = 0; jj < jnum; jj++) {
    const int j = jlist[jj] & NEIGHMASK;
    const double dx = x[j][0] - xi, dy = x[j][1] - yi, dz = x[j][2] - zi;
    const double rsq = dx * dx + dy * dy + dz * dz;
    const int jtype = type[j];
    if (!(rsq < cut[jtype])) continue;
    if (rsq < shortest_allowed_sq && rejects) {
      overlaps++;
      continue;
    }
    if (rsq < shortest_allowed_sq)
      throw std::runtime_error(fmt::format("atoms {} and {} overlap: distance must be at least {} Angstrom, got {:.6g}",
                                           atom->tag[i], atom->tag[j], std::sqrt(shortest_allowed_sq), std::sqrt(rsq)));
    chunk.vectors.push_back(dx);
    chunk.vectors.push_back(dy);
    chunk.vectors.push_back(dz);
    chunk.index.push_back(row);
    chunk.neighbor.push_back(type_of[jtype]);
    chunk.atoms.push_back(j);
  }
}

// Mean energies and edge forces of the members; neighbors are representatives of their types behind the centers.
void PairAllegro::evaluate()
{
  const size_t rows = chunk.centers.size(), edges = chunk.atoms.size();
  if (rows == 0) return;
  const size_t kinds = members[0]->info().type_names.size();
  for (size_t t = 0; t < kinds; t++) chunk.types.push_back(static_cast<int64_t>(t));
  chunk.index.resize(2 * edges);
  for (size_t e = 0; e < edges; e++) chunk.index[edges + e] = static_cast<int64_t>(rows) + chunk.neighbor[e];
  chunk.energies.resize(rows + kinds);
  chunk.edge_forces.resize(3 * edges);
  const size_t count = members.size();
  if (count == 1) {
    members[0]->evaluate(chunk.vectors.data(), chunk.index.data(), edges, chunk.types.data(), rows + kinds,
                         chunk.energies.data(), chunk.edge_forces.data());
  } else {
    chunk.member_energies.resize(rows + kinds);
    chunk.member_forces.resize(3 * edges);
    std::fill(chunk.energies.begin(), chunk.energies.end(), 0.0);
    std::fill(chunk.edge_forces.begin(), chunk.edge_forces.end(), 0.0);
    std::vector<double> squares(rows, 0.0);    // Welford's running variance of each atom's energy
    for (size_t k = 0; k < count; k++) {
      members[k]->evaluate(chunk.vectors.data(), chunk.index.data(), edges, chunk.types.data(), rows + kinds,
                           chunk.member_energies.data(), chunk.member_forces.data());
      double *fk = &force_of_member[k * spread_max * 3];
      for (size_t e = 0; e < edges; e++) {
        const int i = chunk.centers[chunk.index[e]], j = chunk.atoms[e];
        for (int d = 0; d < 3; d++) {
          const double g = chunk.member_forces[3 * e + d];
          chunk.edge_forces[3 * e + d] += g / count;
          fk[3 * i + d] += g * energy_scale;
          fk[3 * j + d] -= g * energy_scale;
        }
      }
      for (size_t row = 0; row < rows; row++) {
        const double step = chunk.member_energies[row] - chunk.energies[row];
        chunk.energies[row] += step / (k + 1);
        squares[row] += step * (chunk.member_energies[row] - chunk.energies[row]);
      }
    }
    for (size_t row = 0; row < rows; row++)
      energy_spread[chunk.centers[row]] = energy_scale * std::sqrt(squares[row] / count);
  }
  double total = 0.0;    // NaN or infinity anywhere shows in the sum
  for (size_t row = 0; row < rows; row++) total += chunk.energies[row];
  for (size_t k = 0; k < 3 * edges; k++) total += std::fabs(chunk.edge_forces[k]);
  if (!std::isfinite(total)) throw std::runtime_error(what_is_not_finite());
}

std::string PairAllegro::what_is_not_finite()
{
  const std::string text = "energies and forces must be finite, got NaN or infinity";
  for (size_t row = 0; row < chunk.centers.size(); row++)
    if (!std::isfinite(chunk.energies[row]))
      return text + fmt::format(" for the energy of atom {}", atom->tag[chunk.centers[row]]);
  for (size_t k = 0; k < 3 * chunk.atoms.size(); k++)
    if (!std::isfinite(chunk.edge_forces[k]))
      return text + fmt::format(" for the force between atoms {} and {}", atom->tag[chunk.centers[chunk.index[k / 3]]],
                                atom->tag[chunk.atoms[k / 3]]);
  return text + " in a sum";
}

void PairAllegro::scatter()
{
  double **f = atom->f;
  const size_t rows = chunk.centers.size(), edges = chunk.atoms.size();
  if (eflag_either)
    for (size_t row = 0; row < rows; row++) {
      const double e = energy_scale * chunk.energies[row];
      if (eflag_global) eng_vdwl += e;
      if (eflag_atom) eatom[chunk.centers[row]] += e;
    }
  for (size_t e = 0; e < edges; e++) {
    const int i = chunk.centers[chunk.index[e]], j = chunk.atoms[e];
    const double *r = &chunk.vectors[3 * e];
    const double g[3] = {energy_scale * chunk.edge_forces[3 * e], energy_scale * chunk.edge_forces[3 * e + 1],
                         energy_scale * chunk.edge_forces[3 * e + 2]};
    for (int d = 0; d < 3; d++) {
      f[i][d] += g[d];
      f[j][d] -= g[d];
    }
    if (!vflag_either) continue;
    // LAMMPS counts a virial as -dE/dstrain
    const double v[6] = {-r[0] * g[0],
                         -r[1] * g[1],
                         -r[2] * g[2],
                         -0.5 * (r[0] * g[1] + r[1] * g[0]),
                         -0.5 * (r[0] * g[2] + r[2] * g[0]),
                         -0.5 * (r[1] * g[2] + r[2] * g[1])};
    if (vflag_global)
      for (int d = 0; d < 6; d++) virial[d] += v[d];
    if (vflag_atom)
      for (int d = 0; d < 6; d++) {
        vatom[i][d] += 0.5 * v[d];
        vatom[j][d] += 0.5 * v[d];
      }
    if (cvflag_atom) {
      // the heat flux of E_i(r_ij) is -sum_e r_e (g_e . v_neighbor): the whole edge belongs to its neighbor
      const double c[9] = {-r[0] * g[0], -r[1] * g[1], -r[2] * g[2], -r[0] * g[1], -r[0] * g[2],
                           -r[1] * g[2], -r[1] * g[0], -r[2] * g[0], -r[2] * g[1]};
      for (int d = 0; d < 9; d++) cvatom[j][d] += c[d];
    }
  }
}

// Root mean square deviation of the members' forces from their mean, per atom, once ghosts have been added.
void PairAllegro::finish_spread()
{
  const size_t count = members.size();
  double worst = 0.0;
  for (int i = 0; i < atom->nlocal; i++) {
    double mean[3] = {0.0, 0.0, 0.0}, sum = 0.0;
    for (size_t k = 0; k < count; k++)
      for (int d = 0; d < 3; d++) mean[d] += force_of_member[(k * spread_max + i) * 3 + d] / count;
    for (size_t k = 0; k < count; k++)
      for (int d = 0; d < 3; d++) {
        const double away = force_of_member[(k * spread_max + i) * 3 + d] - mean[d];
        sum += away * away;
      }
    force_spread[i] = std::sqrt(sum / count);
    worst = std::max(worst, force_spread[i]);
  }
  MPI_Allreduce(&worst, &largest_force_spread, 1, MPI_DOUBLE, MPI_MAX, world);
}

int PairAllegro::pack_reverse_comm(int n, int first, double *buf)
{
  int m = 0;
  for (int i = first; i < first + n; i++)
    for (int d = 0; d < 3; d++) buf[m++] = force_of_member[(reversed * spread_max + i) * 3 + d];
  return m;
}

void PairAllegro::unpack_reverse_comm(int n, int *sendlist, double *buf)
{
  int m = 0;
  for (int i = 0; i < n; i++)
    for (int d = 0; d < 3; d++) force_of_member[(reversed * spread_max + sendlist[i]) * 3 + d] += buf[m++];
}

/* global: the largest force spread, and the factor of the energy that fix adapt changes; per atom (fix pair, dump): force_spread, energy_spread */

void *PairAllegro::extract(const char *name, int &dim)
{
  dim = 0;
  if (std::strcmp(name, "largest_force_spread") == 0) return &largest_force_spread;
  if (std::strcmp(name, "scale") == 0) return &scale;
  return nullptr;
}

void *PairAllegro::extract_peratom(const char *name, int &ncol)
{
  ncol = 0;
  if (members.size() < 2) return nullptr;
  if (std::strcmp(name, "force_spread") == 0) return force_spread;
  if (std::strcmp(name, "energy_spread") == 0) return energy_spread;
  return nullptr;
}

double PairAllegro::memory_usage()
{
  double bytes = Pair::memory_usage();
  bytes += sizeof(double) * (chunk.vectors.capacity() + chunk.edge_forces.capacity() + chunk.member_forces.capacity());
  bytes += sizeof(int64_t) * (chunk.index.capacity() + chunk.neighbor.capacity() + chunk.types.capacity());
  bytes += sizeof(double) * (force_of_member.capacity() + 2.0 * spread_max);
  return bytes;
}

// Ranks before this one on the same machine: chooses the GPU. (MPI_Comm_split_type is missing from MPI stubs.)
// The replicas of -partition, which must not wait for each other here, follow one another.
int PairAllegro::local_rank()
{
  char name[MPI_MAX_PROCESSOR_NAME] = {};
  int length = 0;
  MPI_Get_processor_name(name, &length);
  std::vector<char> all(static_cast<size_t>(comm->nprocs) * MPI_MAX_PROCESSOR_NAME);
  MPI_Allgather(name, MPI_MAX_PROCESSOR_NAME, MPI_CHAR, all.data(), MPI_MAX_PROCESSOR_NAME, MPI_CHAR, world);
  int before = 0;
  for (int rank = 0; rank < comm->me; rank++)
    if (std::strcmp(&all[static_cast<size_t>(rank) * MPI_MAX_PROCESSOR_NAME], name) == 0) before++;
  return before + universe->root_proc[universe->iworld];
}

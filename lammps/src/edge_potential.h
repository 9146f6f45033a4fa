// An exported model as a plain C++ function of edges: the only interface that pair styles have to torch.

#ifndef MLIP_EDGE_POTENTIAL_H
#define MLIP_EDGE_POTENTIAL_H

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace mlip {

struct ModelInfo {
  std::string model, dtype, precision, device, isa, torch_version;
  std::vector<std::string> type_names;
  double cutoff;                  // largest, Angstrom
  double shortest_distance;       // nearer atoms are an error in the geometry, Angstrom
  int64_t edges_per_call;         // default
  int64_t max_edges, max_atoms;   // of one call, by the indices of the code
  int64_t bytes_per_edge, bytes_per_atom;    // of memory that a call takes
  std::vector<double> cutoffs;    // [center][neighbor], row by row, Angstrom
};

class EdgePotential {
 public:
  // Shares one loaded copy among equal files. Throws std::runtime_error: file missing or damaged, or made for another
  // machine.
  EdgePotential(const std::string &path, int local_rank);
  ~EdgePotential();

  const ModelInfo &info() const;

  // vectors (edges, 3) Angstrom; edge_index (2, edges) [center; neighbor] sorted by center; types (atoms), whose last
  // are the representatives of all types, of which every neighbor is one. Fills energies (atoms) eV and edge_forces
  // (edges, 3) eV/Angstrom. More than the code indexes, or than fits the memory of a GPU, is evaluated in halves of
  // the centers. Throws std::runtime_error.
  void evaluate(const double *vectors, const int64_t *edge_index, int64_t edges, const int64_t *types,
                int64_t atoms, double *energies, double *edge_forces);

  // The same with every pointer on the device of the model. With a pointer to the caller's stream (a cudaStream_t or
  // hipStream_t) it runs there, after what the stream holds and without waiting; without, all work on the pointers must
  // be done, and it waits for its own.
  void evaluate_on_device(const double *vectors, const int64_t *edge_index, int64_t edges, const int64_t *types,
                          int64_t atoms, double *energies, double *edge_forces, void *const *stream = nullptr);

 private:
  struct Implementation;
  std::shared_ptr<Implementation> self;
};

// Threads that torch uses inside one call, in this process.
void set_threads(int threads);

}    // namespace mlip

#endif

// An exported model as a class of TorchScript: the energies of atoms, differentiable with respect to edge vectors.
//
// Saved with a TorchScript module, an object is the bytes of its .pt2; loaded, it is unpacked again and its code shared
// with equal ones of the process (EdgePotential).

#include "edge_potential.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>
#include <torch/library.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <numeric>
#include <string>
#include <unistd.h>
#include <vector>

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor bytes_of(const std::string &path)
{
  std::ifstream file(path, std::ios::binary);
  TORCH_CHECK(file, path, " must be a readable .pt2 file, got no such file");
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  at::Tensor bytes = at::empty({static_cast<int64_t>(text.size())}, at::kByte);
  std::copy(text.begin(), text.end(), bytes.data_ptr<uint8_t>());
  return bytes;
}

// A file of these bytes for as long as the object lives; the loader takes no bytes.
class Unpacked {
 public:
  explicit Unpacked(const at::Tensor &bytes)
  {
    path = (std::filesystem::temp_directory_path() / "mlip-export-XXXXXX.pt2").string();
    const int descriptor = mkstemps(path.data(), 4);
    TORCH_CHECK(descriptor != -1, "TMPDIR must be a writable folder, got ", path);
    close(descriptor);
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char *>(bytes.data_ptr<uint8_t>()), bytes.numel());
  }
  Unpacked(const Unpacked &) = delete;
  ~Unpacked()
  {
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
  }
  std::string path;
};

class Potential : public torch::CustomClassHolder {
 public:
  explicit Potential(at::Tensor bytes) : bytes(bytes.cpu().contiguous()), loaded(load(this->bytes)) {}
  static c10::intrusive_ptr<Potential> open(const std::string &path)
  {
    return c10::make_intrusive<Potential>(bytes_of(path));
  }

  // Energies (atoms) and edge forces (edges, 3), in calls of at most the model's number of edges or of one center. A
  // strictly local model reads of a neighbor its type alone, so a call holds its centers and one atom of each type.
  std::pair<at::Tensor, at::Tensor> evaluate(const at::Tensor &vectors, const at::Tensor &edge_index, const at::Tensor &types)
  {
    const int64_t edges = vectors.size(0), atoms = types.size(0);
    at::Tensor energies = at::empty({atoms}, at::kDouble), forces = at::empty({edges, 3}, at::kDouble);
    const double *r = vectors.const_data_ptr<double>();
    const int64_t *center = edge_index.const_data_ptr<int64_t>(), *neighbor = center + edges;
    const int64_t *type = types.const_data_ptr<int64_t>();
    const int64_t kinds = static_cast<int64_t>(loaded.info().type_names.size()), limit = loaded.info().edges_per_call;
    std::vector<int64_t> index, local;
    std::vector<double> energy;
    for (int64_t first = 0, begin = 0; first < atoms;) {
      int64_t last = first, end = begin;
      while (last < atoms) {
        int64_t next = end;
        while (next < edges && center[next] == last) next++;
        if (last > first && next - begin > limit) break;
        end = next;
        last++;
      }
      const int64_t size = end - begin, centers = last - first;
      index.resize(2 * size);
      for (int64_t k = 0; k < size; k++) {
        index[k] = center[begin + k] - first;
        index[size + k] = centers + type[neighbor[begin + k]];
      }
      local.assign(type + first, type + last);
      local.resize(centers + kinds);
      std::iota(local.begin() + centers, local.end(), 0);
      energy.resize(centers + kinds);
      loaded.evaluate(r + 3 * begin, index.data(), size, local.data(), centers + kinds, energy.data(),
                      forces.data_ptr<double>() + 3 * begin);
      std::copy(energy.begin(), energy.begin() + centers, energies.data_ptr<double>() + first);
      first = last;
      begin = end;
    }
    return {energies, forces};
  }

  const at::Tensor bytes;
  mlip::EdgePotential loaded;

 private:
  static mlip::EdgePotential load(const at::Tensor &bytes)
  {
    const Unpacked file(bytes);
    mlip::EdgePotential potential(file.path, 0);
    TORCH_CHECK(potential.info().device == "cpu", "model must be compiled for cpu, got ", potential.info().device);
    return potential;
  }
};

void check(const Potential &self, const at::Tensor &vectors, const at::Tensor &edge_index, const at::Tensor &types)
{
  const int64_t edges = vectors.size(0), atoms = types.size(0);
  TORCH_CHECK(vectors.is_cpu() && edge_index.is_cpu() && types.is_cpu(), "tensors must be on the cpu, got others");
  TORCH_CHECK(vectors.scalar_type() == at::kDouble && edge_index.scalar_type() == at::kLong && types.scalar_type() == at::kLong,
              "vectors, edge_index and types must be float64, int64 and int64, got ", vectors.scalar_type(), ", ",
              edge_index.scalar_type(), " and ", types.scalar_type());
  TORCH_CHECK(vectors.dim() == 2 && vectors.size(1) == 3 && edge_index.dim() == 2 && edge_index.size(0) == 2 &&
                  edge_index.size(1) == edges && types.dim() == 1,
              "vectors, edge_index and types must have shapes (E, 3), (2, E) and (N,), got ", vectors.sizes(), ", ",
              edge_index.sizes(), " and ", types.sizes());
  const int64_t kinds = static_cast<int64_t>(self.loaded.info().type_names.size());
  TORCH_CHECK(atoms == 0 || (types.min().item<int64_t>() >= 0 && types.max().item<int64_t>() < kinds),
              "types must be from 0 to ", kinds - 1, ", got others");
  if (edges == 0) return;
  TORCH_CHECK(edge_index.min().item<int64_t>() >= 0 && edge_index.max().item<int64_t>() < atoms,
              "edge_index must be from 0 to ", atoms - 1, ", got others");
  const at::Tensor center = edge_index[0];
  TORCH_CHECK((center.slice(0, 1) >= center.slice(0, 0, edges - 1)).all().item<bool>(),
              "edge_index must be sorted by center, got another order");
  const double shortest = vectors.square().sum(1).min().sqrt().item<double>();
  TORCH_CHECK(shortest >= self.loaded.info().shortest_distance && vectors.isfinite().all().item<bool>(),
              "edge vectors must be finite and longer than ", self.loaded.info().shortest_distance, " Angstrom, got ", shortest);
}

struct Energies : torch::autograd::Function<Energies> {
  static at::Tensor forward(AutogradContext *context, const at::Tensor &vectors, const at::Tensor &edge_index,
                            const at::Tensor &types, const c10::intrusive_ptr<Potential> &self)
  {
    const at::Tensor r = vectors.detach().contiguous(), index = edge_index.contiguous(), kinds = types.contiguous();
    check(*self, r, index, kinds);
    const auto [energies, forces] = self->evaluate(r, index, kinds);
    TORCH_CHECK(energies.isfinite().all().item<bool>() && forces.isfinite().all().item<bool>(),
                "energies and forces must be finite, got NaN or infinity; the geometry is far from the training data");
    context->save_for_backward({forces, index[0]});
    return energies;
  }

  // An atom's energy depends on the edges of which it is the center, so its weight multiplies their derivatives.
  static variable_list backward(AutogradContext *context, variable_list gradients)
  {
    TORCH_CHECK(!at::GradMode::is_enabled(), "derivatives must be first ones (create_graph=False), got a second derivative");
    const variable_list saved = context->get_saved_variables();
    const at::Tensor weights = gradients[0].index_select(0, saved[1]);
    return {saved[0] * weights.unsqueeze(1), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}    // namespace

TORCH_LIBRARY(mlip_export, library)
{
  library.class_<Potential>("Potential")
      .def(torch::init([](const std::string &path) { return Potential::open(path); }))
      .def("energies",
           [](const c10::intrusive_ptr<Potential> &self, const at::Tensor &vectors, const at::Tensor &edge_index,
              const at::Tensor &types) { return Energies::apply(vectors, edge_index, types, self); })
      .def_pickle([](const c10::intrusive_ptr<Potential> &self) { return self->bytes; },
                  [](const at::Tensor &bytes) { return c10::make_intrusive<Potential>(bytes); });
}

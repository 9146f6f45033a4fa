// Load and call an exported model, with the checks that compiled code does not make itself.

#include "edge_potential.h"

#include "model_archive.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <torch/csrc/api/include/torch/cuda.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/version.h>

#if defined(__GLIBC__)
#include <malloc.h>
#endif
#if defined(__linux__)
#include <link.h>
#endif

#include <filesystem>
#include <mutex>
#include <stdexcept>
#include <unordered_map>

namespace mlip {

using Strings = std::unordered_map<std::string, std::string>;
using Loader = torch::inductor::AOTIModelPackageLoader;

namespace {

// The items of a JSON array of strings or numbers, nested arrays flattened. Element symbols hold no escapes.
std::vector<std::string> json_items(const std::string &text)
{
  std::vector<std::string> items;
  std::string item;
  for (char c : text) {
    if (c == '[' || c == ']' || c == ',' || c == ' ' || c == '"') {
      if (!item.empty()) items.push_back(item);
      item.clear();
    } else {
      item.push_back(c);
    }
  }
  return items;
}

std::string field(const Strings &metadata, const std::string &name, const std::string &path)
{
  auto found = metadata.find(name);
  if (found == metadata.end())
    throw std::runtime_error(path + " must be an exported model, written by mlip-export compile, got a file without '" + name +
                             "' in its metadata");
  return found->second;
}

std::string until_second_dot(const std::string &version)
{
  size_t dot = version.find('.');
  if (dot != std::string::npos) dot = version.find('.', dot + 1);
  return version.substr(0, dot);
}

bool runs_here(const std::string &isa)
{
#if defined(__x86_64__) || defined(_M_X64)
  if (isa == "avx512") return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl");
  if (isa == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return true;
#else
  return isa == "default";
#endif
}

// Every call allocates its activations. By default glibc returns their pages to the system after each call, and
// the faults on the next ones take over a third of a step; kept, they are bounded by one call's edges.
void keep_freed_memory()
{
#if defined(__GLIBC__)
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, 0x7fffffff);
#endif
}

ModelInfo read_info(const Strings &metadata, const std::string &path)
{
  if (field(metadata, "format", path) != "mlip-export" || field(metadata, "format_version", path) != "1")
    throw std::runtime_error(path + " must have format mlip-export version 1, got " + field(metadata, "format", path) +
                             " version " + field(metadata, "format_version", path));
  if (field(metadata, "length_unit", path) != "angstrom" || field(metadata, "energy_unit", path) != "eV")
    throw std::runtime_error(path + " must be in angstrom and eV, got " +
                             field(metadata, "length_unit", path) + " and " + field(metadata, "energy_unit", path));
  ModelInfo info;
  info.model = field(metadata, "model", path);
  info.dtype = field(metadata, "dtype", path);
  info.device = field(metadata, "device", path);
  info.isa = field(metadata, "isa", path);
  info.torch_version = field(metadata, "torch_version", path);
  info.type_names = json_items(field(metadata, "type_names", path));
  info.cutoff = std::stod(field(metadata, "cutoff", path));
  info.shortest_distance = std::stod(field(metadata, "shortest_distance", path));
  info.edges_per_call = std::stoll(field(metadata, "edges_per_call", path));
  for (const auto &item : json_items(field(metadata, "cutoffs", path))) info.cutoffs.push_back(std::stod(item));
  const size_t types = info.type_names.size();
  if (info.cutoffs.size() != types * types)
    throw std::runtime_error(path + " must have one cutoff per ordered pair of types in its metadata, got " +
                             std::to_string(info.cutoffs.size()));
  const std::string here =
      std::to_string(TORCH_VERSION_MAJOR) + "." + std::to_string(TORCH_VERSION_MINOR);
  if (until_second_dot(info.torch_version) != here)
    throw std::runtime_error(path + " must be compiled by torch " + here + ", which this plugin runs, got " + info.torch_version);
  if (info.device == "cuda" && !torch::cuda::is_available())
    throw std::runtime_error(path + " must be compiled for cpu where torch sees no CUDA device, got cuda");
  if (info.device == "cpu" && !runs_here(info.isa))
    throw std::runtime_error(path + " must be compiled for instructions of this processor, got " + info.isa +
                             " (compile with --isa avx2)");
  return info;
}

// torch's own messages end in a stack trace of no use to a user
std::string first_line(const std::exception &e)
{
  const auto *c10_error = dynamic_cast<const c10::Error *>(&e);
  std::string text = c10_error ? c10_error->what_without_backtrace() : e.what();
  return text.substr(0, text.find('\n'));
}

// The metadata without loading the code, where this torch can (2.9 could not); else empty.
template <class L> auto peek(const std::string &path, int) -> decltype(L::load_metadata_from_package(path, "model"))
{
  return L::load_metadata_from_package(path, "model");
}
template <class L> Strings peek(const std::string &, long) { return {}; }

// torch unpacks an exported model into a folder of its own under $TMPDIR and removes it when the loader ends, which it does not
// where an error stops LAMMPS. The code for a CPU is mapped by now and reads no other file, so the folder may go.
void remove_unpacked(const std::vector<std::string> &entries)
{
#if defined(__linux__)
  for (const auto &entry : entries) {
    if (!entry.ends_with(".so")) continue;
    struct Search {
      std::string end, folder;
    } search{"/" + entry, {}};
    const auto visit = [](dl_phdr_info *info, size_t, void *data) {
      auto *search = static_cast<Search *>(data);
      const std::string place = info->dlpi_name;
      std::error_code ignored;    // an earlier load of the same file has none any more
      if (place.ends_with(search->end) && std::filesystem::exists(place, ignored))
        search->folder = place.substr(0, place.size() - search->end.size());
      return 0;
    };
    dl_iterate_phdr(visit, &search);
    std::error_code ignored;
    if (!search.folder.empty()) std::filesystem::remove_all(search.folder, ignored);
  }
#else
  (void) entries;
#endif
}

}    // namespace

struct EdgePotential::Implementation {
  ModelInfo info;
  std::unique_ptr<Loader> loader;
  c10::Device device{c10::kCPU};

  Implementation(const std::string &path, const std::vector<std::string> &entries, int local_rank)
  {
    const Strings early = peek<Loader>(path, 0);
    if (!early.empty()) info = read_info(early, path);
    c10::DeviceIndex index = -1;
    if (info.device == "cuda") {
      index = static_cast<c10::DeviceIndex>(local_rank % static_cast<int>(torch::cuda::device_count()));
      device = c10::Device(c10::kCUDA, index);
    }
    if (device.is_cpu()) keep_freed_memory();
    loader = std::make_unique<Loader>(path, "model", false, 1, index);
    if (early.empty()) info = read_info(loader->get_metadata(), path);
    if (device.is_cpu()) remove_unpacked(entries);
  }
};

// One loaded copy per content and GPU in this process. torch unmaps the code only when the process ends, so that a CPU
// model given back and loaded again would be mapped twice: it is kept. A GPU's memory goes back with its last user.
EdgePotential::EdgePotential(const std::string &path, int local_rank)
{
  using Loaded = std::unordered_map<std::string, std::weak_ptr<Implementation>>;
  static auto &loaded = *new Loaded;    // never destroyed: torch may end first
  static auto &kept = *new std::vector<std::shared_ptr<Implementation>>;
  static std::mutex mutex;
  const Archive archive = checked_archive(path);
  const std::lock_guard<std::mutex> guard(mutex);
  auto &found = loaded[archive.identity + std::to_string(local_rank)];
  self = found.lock();
  if (self) return;
  try {
    self = std::make_shared<Implementation>(path, archive.names, local_rank);
  } catch (const c10::Error &e) {
    throw std::runtime_error(path + " must be an exported model whose code loads here, got an error from torch: " +
                             first_line(e));
  }
  found = self;
  if (self->device.is_cpu()) kept.push_back(self);
}

EdgePotential::~EdgePotential() = default;

const ModelInfo &EdgePotential::info() const { return self->info; }

namespace {

// Wraps memory at either place as inputs, runs the model, and copies the outputs to the same place.
void run(Loader &loader, c10::Device from, c10::Device device, const double *vectors, const int64_t *edge_index,
         int64_t edges, const int64_t *types, int64_t atoms, double *energies, double *edge_forces)
{
  c10::InferenceMode guard;
  const auto doubles = at::TensorOptions().dtype(at::kDouble).device(from);
  const auto integers = at::TensorOptions().dtype(at::kLong).device(from);
  try {
    // from_blob takes no const; the model does not write to its inputs
    at::Tensor r = at::from_blob(const_cast<double *>(vectors), {edges, 3}, doubles);
    at::Tensor index = at::from_blob(const_cast<int64_t *>(edge_index), {2, edges}, integers);
    at::Tensor kinds = at::from_blob(const_cast<int64_t *>(types), {atoms}, integers);
    std::vector<at::Tensor> out = loader.run({r.to(device), index.to(device), kinds.to(device)});
    if (out.size() != 2 || out[0].numel() != atoms || out[1].numel() != 3 * edges)
      throw std::runtime_error("the model returned tensors of other shapes than energies and edge forces");
    at::from_blob(energies, {atoms}, doubles).copy_(out[0].view({atoms}));
    at::from_blob(edge_forces, {edges, 3}, doubles).copy_(out[1].view({edges, 3}));
    if (from.is_cuda()) torch::cuda::synchronize(from.index());    // the caller's stream is another one
  } catch (const c10::Error &e) {
    throw std::runtime_error("evaluating the model failed in torch: " + first_line(e));
  }
}

}    // namespace

void EdgePotential::evaluate(const double *vectors, const int64_t *edge_index, int64_t edges, const int64_t *types,
                             int64_t atoms, double *energies, double *edge_forces)
{
  run(*self->loader, c10::kCPU, self->device, vectors, edge_index, edges, types, atoms, energies, edge_forces);
}

void EdgePotential::evaluate_on_device(const double *vectors, const int64_t *edge_index, int64_t edges,
                                       const int64_t *types, int64_t atoms, double *energies, double *edge_forces)
{
  run(*self->loader, self->device, self->device, vectors, edge_index, edges, types, atoms, energies, edge_forces);
}

void set_threads(int threads) { at::set_num_threads(threads < 1 ? 1 : threads); }

}    // namespace mlip

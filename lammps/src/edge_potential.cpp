// Load and call an exported model, with the checks that compiled code does not make itself.

#include "edge_potential.h"

#include "device_stream.h"
#include "gpu_architecture.h"
#include "model_archive.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/stack.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <torch/csrc/api/include/torch/cuda.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/version.h>

#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 10
#define MLIP_ALLOCATORS
#include <c10/core/CachingDeviceAllocator.h>
#endif
#if defined(__GLIBC__)
#include <malloc.h>
#endif
#if defined(__linux__)
#include <link.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
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

// Whether the processor has the tiles of AMX and the system lets this process use them, which has to be asked for.
bool may_use_tiles()
{
#if defined(SYS_arch_prctl)
  constexpr int request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, request, tile_data) == 0;
#else
  return false;
#endif
}

bool runs_here(const std::string &isa)
{
#if defined(__x86_64__) || defined(_M_X64)
  if (isa == "amx") return runs_here("avx512") && may_use_tiles();
  if (isa == "avx512") return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl");
  if (isa == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return isa == "default";
}

// Every call allocates its activations. By default glibc returns their pages to the system after each call, and the
// next ones cost page faults; kept, they are bounded by one call's edges.
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
  info.precision = field(metadata, "precision", path);
  if (info.precision != "float32" && info.precision != "tf32" && info.precision != "bf16")
    throw std::runtime_error(path + " must have precision float32, tf32 or bf16, got " + info.precision);
  info.device = field(metadata, "device", path);
  info.isa = field(metadata, "isa", path);
  info.torch_version = field(metadata, "torch_version", path);
  info.type_names = json_items(field(metadata, "type_names", path));
  info.cutoff = std::stod(field(metadata, "cutoff", path));
  info.shortest_distance = std::stod(field(metadata, "shortest_distance", path));
  info.edges_per_call = std::stoll(field(metadata, "edges_per_call", path));
  info.max_edges = std::stoll(field(metadata, "max_edges", path));
  info.max_atoms = std::stoll(field(metadata, "max_atoms", path));
  info.bytes_per_edge = std::stoll(field(metadata, "bytes_per_edge", path));
  info.bytes_per_atom = std::stoll(field(metadata, "bytes_per_atom", path));
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

// Sets what products of float32 matrices round their operands to while it lives: torch has one setting per process and kind
// of device, which belongs to others.
class ProductPrecision {
 public:
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 13
  ProductPrecision(const std::string &precision, c10::Device device) :
      backend(device.is_cpu() ? at::Float32Backend::MKLDNN : at::Float32Backend::CUDA),
      before(at::globalContext().float32Precision(backend, at::Float32Op::MATMUL))
  {
    using P = at::Float32Precision;
    const P wanted = precision == "tf32" ? P::TF32 : (precision == "bf16" ? P::BF16 : P::IEEE);
    if (wanted != (before == P::NONE ? P::IEEE : before))
      at::globalContext().setFloat32Precision(backend, at::Float32Op::MATMUL, wanted);
  }
  ~ProductPrecision() { at::globalContext().setFloat32Precision(backend, at::Float32Op::MATMUL, before); }

 private:
  at::Float32Backend backend;
  at::Float32Precision before;
#else
  ProductPrecision(const std::string &precision, c10::Device) : before(at::globalContext().float32MatmulPrecision())
  {
    at::globalContext().setFloat32MatmulPrecision(precision == "tf32" ? "high" : (precision == "bf16" ? "medium" : "highest"));
  }
  ~ProductPrecision()
  {
    using P = at::Float32MatmulPrecision;
    at::globalContext().setFloat32MatmulPrecision(before == P::HIGH ? "high" : (before == P::MEDIUM ? "medium" : "highest"));
  }

 private:
  at::Float32MatmulPrecision before;
#endif
};

// How often torch's allocator of a GPU ran out of memory, and the bytes it can still allocate; 0 where it does not say.
#if defined(MLIP_ALLOCATORS)
int64_t failed_allocations(c10::Device device)
{
  return device.is_cpu() ? 0 : at::getDeviceAllocator(device.type())->getDeviceStats(device.index()).num_ooms;
}
template <class A> auto driver_free(A *allocator, c10::DeviceIndex index, int) -> decltype(allocator->getMemoryInfo(index).first)
{
  return allocator->getMemoryInfo(index).first;
}
template <class A> size_t driver_free(A *, c10::DeviceIndex, long) { return 0; }
int64_t free_bytes(c10::Device device)
{
  if (device.is_cpu()) return 0;
  auto *allocator = at::getDeviceAllocator(device.type());
  const auto stats = allocator->getDeviceStats(device.index());
  const int64_t held = stats.reserved_bytes[0].current - stats.allocated_bytes[0].current;    // [0]: of all pools
  try {
    const auto free = static_cast<int64_t>(driver_free(allocator, device.index(), 0));
    return free > 0 ? free + held : 0;
  } catch (const c10::Error &) {
    return 0;
  }
}
#else
int64_t failed_allocations(c10::Device) { return 0; }
int64_t free_bytes(c10::Device) { return 0; }
#endif

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
  int64_t edges_at_once = 0, atoms_at_once = 0;    // of one call: indices, memory of a GPU, halved when it runs out
  bool fits_memory = false;

  Implementation(const std::string &path, const std::vector<std::string> &entries, int local_rank)
  {
    const Strings early = peek<Loader>(path, 0);
    if (!early.empty()) info = read_info(early, path);
    c10::DeviceIndex index = -1;
    if (info.device == "cuda") {
      index = static_cast<c10::DeviceIndex>(device_of_rank(local_rank, static_cast<int>(torch::cuda::device_count())));
      device = c10::Device(c10::kCUDA, index);
      const std::string problem = architecture_problem(info.isa, index);
      if (!problem.empty()) throw std::runtime_error(path + " " + problem);
    }
    if (device.is_cpu()) keep_freed_memory();
    loader = std::make_unique<Loader>(path, "model", false, 1, index);
    if (early.empty()) info = read_info(loader->get_metadata(), path);
    if (early.empty() && info.device != "cpu")    // it is loaded before its device is known
      throw std::runtime_error(path + " must be compiled for cpu with torch before 2.10, got " + info.device);
    if (device.is_cpu()) remove_unpacked(entries);
    edges_at_once = info.max_edges;
    atoms_at_once = info.max_atoms;
    if (!device.is_cpu()) try_one_edge(path);
  }

  // Code that this GPU does not run fails at its first call: here, where the message can name the file.
  void try_one_edge(const std::string &path)
  {
    const double vector[3] = {0.75 * info.cutoff, 0.0, 0.0};
    const size_t kinds = info.type_names.size();
    const int64_t index[2] = {0, 1};
    std::vector<int64_t> types(1 + kinds, 0);
    for (size_t t = 0; t < kinds; t++) types[1 + t] = static_cast<int64_t>(t);
    std::vector<double> energies(1 + kinds);
    double force[3];
    try {
      evaluate(c10::kCPU, vector, index, 1, types.data(), static_cast<int64_t>(types.size()), energies.data(), force);
    } catch (const std::runtime_error &e) {
      throw std::runtime_error(path + " must run on this GPU, got code for " + info.isa + ", of which one edge failed: " + e.what());
    }
    fits_memory = false;    // LAMMPS has yet to take its own memory of the GPU
  }

  void evaluate(c10::Device from, const double *vectors, const int64_t *edge_index, int64_t edges, const int64_t *types,
                int64_t atoms, double *energies, double *edge_forces, void *const *stream = nullptr);

 private:
  // A graph on the device, and where its results go.
  struct Whole {
    at::Tensor vectors, index, center, neighbor, types, energies, edge_forces;
    int64_t rows;    // centers; the types behind them are the representatives
  };

  void part(const Whole &all, int64_t first, int64_t last, int64_t a, int64_t b);
  bool call(const Whole &all, int64_t first, int64_t last, int64_t a, int64_t b);
  void fit_memory();
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

// Lowers the limits to what fits the free memory of a GPU: 0.6 of it for edges, 0.2 for atoms.
void EdgePotential::Implementation::fit_memory()
{
  if (fits_memory || device.is_cpu()) return;
  fits_memory = true;
  const double free = static_cast<double>(free_bytes(device));
  if (!(free > 0.0)) return;
  const auto fit = [free](double share, int64_t bytes) {
    return std::max<int64_t>(1, static_cast<int64_t>(share * free / static_cast<double>(std::max<int64_t>(1, bytes))));
  };
  edges_at_once = std::min(edges_at_once, fit(0.6, info.bytes_per_edge));
  atoms_at_once = std::min(atoms_at_once, fit(0.2, info.bytes_per_atom));
}

// Evaluates the centers from first to last, whose edges are a to b: at once, or in halves where they are too many.
void EdgePotential::Implementation::part(const Whole &all, int64_t first, int64_t last, int64_t a, int64_t b)
{
  const int64_t kinds = all.types.numel() - all.rows;
  if (b - a <= edges_at_once && last - first + kinds <= atoms_at_once) {
    if (call(all, first, last, a, b)) return;
    edges_at_once = std::min(edges_at_once, std::max<int64_t>(1, (b - a) / 2));
    atoms_at_once = std::min(atoms_at_once, std::max<int64_t>(1, (last - first) / 2 + kinds));
  } else if (last - first < 2) {
    if (b - a > info.max_edges || last - first + kinds > info.max_atoms)
      throw std::runtime_error("neighbors of one atom must be at most " + std::to_string(info.max_edges) + ", got " +
                               std::to_string(b - a));
    if (call(all, first, last, a, b)) return;
  }
  if (last - first < 2) throw std::runtime_error("evaluating the model failed: out of memory for the neighbors of one atom");
  const int64_t middle = first + (last - first) / 2;
  const int64_t between = a + all.center.slice(0, a, b).lt(middle).sum().item<int64_t>();
  part(all, first, middle, a, between);
  part(all, middle, last, between, b);
}

// One call of the compiled function; false where memory is short, which compiled code hides but the allocator counts.
bool EdgePotential::Implementation::call(const Whole &all, int64_t first, int64_t last, int64_t a, int64_t b)
{
  const int64_t rows = last - first;
  const int64_t before = failed_allocations(device);
  try {
    std::vector<at::Tensor> out;
    if (rows == all.rows) {
      out = loader->run({all.vectors, all.index, all.types});
    } else {
      const at::Tensor index =
          at::stack({all.center.slice(0, a, b).sub(first), all.neighbor.slice(0, a, b).sub(all.rows - rows)});
      out = loader->run({all.vectors.slice(0, a, b).clone(), index,
                         at::cat({all.types.slice(0, first, last), all.types.slice(0, all.rows)})});
    }
    const int64_t kinds = all.types.numel() - all.rows;
    if (out.size() != 2 || out[0].numel() != rows + kinds || out[1].numel() != 3 * (b - a))
      throw std::runtime_error("the model returned tensors of other shapes than energies and edge forces");
    const at::Tensor energies = out[0].view({rows + kinds});
    all.energies.slice(0, first, last).copy_(energies.slice(0, 0, rows));
    all.energies.slice(0, all.rows).copy_(energies.slice(0, rows));
    all.edge_forces.slice(0, a, b).copy_(out[1].view({b - a, 3}));
    return true;
  } catch (const c10::OutOfMemoryError &) {
    return false;
  } catch (const std::exception &) {
    if (failed_allocations(device) > before) return false;
    throw;
  }
}

// Wraps memory at either place as inputs, runs the model, and copies the outputs to the same place.
void EdgePotential::Implementation::evaluate(c10::Device from, const double *vectors, const int64_t *edge_index, int64_t edges,
                                             const int64_t *types, int64_t atoms, double *energies, double *edge_forces,
                                             void *const *stream)
{
  c10::InferenceMode guard;
  const StreamGuard on_stream(stream, device.index());
  const auto doubles = at::TensorOptions().dtype(at::kDouble).device(from);
  const auto integers = at::TensorOptions().dtype(at::kLong).device(from);
  const int64_t rows = atoms - static_cast<int64_t>(info.type_names.size());
  if (rows < 0) throw std::runtime_error("types must end in one representative of each type, got fewer");
  try {
    fit_memory();
    // in code for a CPU bf16 is written out
    const ProductPrecision products(device.is_cpu() ? "float32" : info.precision, device);
    // from_blob takes no const; the model does not write to its inputs
    const at::Tensor index = at::from_blob(const_cast<int64_t *>(edge_index), {2, edges}, integers).to(device);
    part({at::from_blob(const_cast<double *>(vectors), {edges, 3}, doubles).to(device), index, index.select(0, 0), index.select(0, 1),
          at::from_blob(const_cast<int64_t *>(types), {atoms}, integers).to(device),
          at::from_blob(energies, {atoms}, doubles), at::from_blob(edge_forces, {edges, 3}, doubles), rows},
         0, rows, 0, edges);
    if (from.is_cuda() && stream == nullptr) torch::cuda::synchronize(from.index());    // the caller's stream is another one
  } catch (const c10::Error &e) {
    throw std::runtime_error("evaluating the model failed in torch: " + first_line(e));
  }
}

void EdgePotential::evaluate(const double *vectors, const int64_t *edge_index, int64_t edges, const int64_t *types,
                             int64_t atoms, double *energies, double *edge_forces)
{
  self->evaluate(c10::kCPU, vectors, edge_index, edges, types, atoms, energies, edge_forces);
}

void EdgePotential::evaluate_on_device(const double *vectors, const int64_t *edge_index, int64_t edges,
                                       const int64_t *types, int64_t atoms, double *energies, double *edge_forces,
                                       void *const *stream)
{
  self->evaluate(self->device, vectors, edge_index, edges, types, atoms, energies, edge_forces, stream);
}

void set_threads(int threads) { at::set_num_threads(threads < 1 ? 1 : threads); }

}    // namespace mlip

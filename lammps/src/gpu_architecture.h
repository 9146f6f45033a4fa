// The GPU of a rank, and its architecture by the libraries that drive it, with no header of CUDA or HIP.

#ifndef MLIP_GPU_ARCHITECTURE_H
#define MLIP_GPU_ARCHITECTURE_H

#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#if defined(__linux__)
#include <dlfcn.h>
#endif

namespace mlip {

// "sm_90" of an NVIDIA GPU; empty where its driver is not to be asked.
inline std::string cuda_architecture(int index)
{
#if defined(__linux__)
  void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (!driver) return {};
  const auto start = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  const auto find = reinterpret_cast<int (*)(int *, int)>(dlsym(driver, "cuDeviceGet"));
  const auto ask = reinterpret_cast<int (*)(int *, int, int)>(dlsym(driver, "cuDeviceGetAttribute"));
  constexpr int MAJOR = 75, MINOR = 76;    // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
  int device = 0, major = 0, minor = 0;
  if (!start || !find || !ask || start(0) != 0 || find(&device, index) != 0 || ask(&major, MAJOR, device) != 0 ||
      ask(&minor, MINOR, device) != 0)
    return {};
  return "sm_" + std::to_string(major) + std::to_string(minor);
#else
  (void) index;
  return {};
#endif
}

// "gfx90a" of an AMD GPU; empty where its runtime is not to be asked.
inline std::string hip_architecture(int index)
{
#if defined(__linux__)
  void *runtime = nullptr;
  for (const char *name : {"libamdhip64.so", "libamdhip64.so.7", "libamdhip64.so.6"})
    if (!runtime) runtime = dlopen(name, RTLD_LAZY | RTLD_LOCAL);
  if (!runtime) return {};
  using Properties = int (*)(void *, int);
  auto ask = reinterpret_cast<Properties>(dlsym(runtime, "hipGetDevicePropertiesR0600"));
  if (!ask) ask = reinterpret_cast<Properties>(dlsym(runtime, "hipGetDeviceProperties"));
  std::vector<char> properties(1 << 16, '\0');    // larger than any version's record, which holds gcnArchName
  if (!ask || ask(properties.data(), index) != 0) return {};
  const std::string_view all(properties.data(), properties.size());
  const size_t at = all.find("gfx");
  if (at == std::string_view::npos) return {};
  const std::string name(properties.data() + at);
  return name.substr(0, name.find(':'));    // without features such as :sramecc+
#else
  (void) index;
  return {};
#endif
}

// The GPU of a rank from the number of ranks before it on its machine: in turn, so ranks share GPUs where they are
// more, and one that its launcher shows a single GPU takes that. (A rank without atoms keeps its turn.)
inline int device_of_rank(int local_rank, int devices)
{
  if (devices < 1) throw std::runtime_error("a model compiled for cuda needs a GPU, got none on this machine");
  if (local_rank < 0) throw std::runtime_error("local_rank must be at least 0, got " + std::to_string(local_rank));
  return local_rank % devices;
}

// What does not fit between the code of a model and a GPU, as the end of a sentence; empty where all is well.
inline std::string architecture_problem(const std::string &isa, int index)
{
  const bool amd = isa.compare(0, 3, "gfx") == 0;
  const std::string here = amd ? hip_architecture(index) : cuda_architecture(index);
  const std::string other = here.empty() ? (amd ? cuda_architecture(index) : hip_architecture(index)) : here;
  if (other.empty() || other == isa) return {};
  return "must be compiled for this GPU, which is " + other + ", got code for " + isa;
}

}    // namespace mlip

#endif

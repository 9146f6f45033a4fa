// torch's current stream of a GPU, by the C functions that torch has for compiled models: no header of CUDA or HIP.

#ifndef MLIP_DEVICE_STREAM_H
#define MLIP_DEVICE_STREAM_H

#include <cstdint>
#include <stdexcept>
#include <string>

// Absent from torch for CPUs, where they are null.
extern "C" {
__attribute__((weak, visibility("default"))) int32_t aoti_torch_create_cuda_stream_guard(void *stream, int32_t device, void **guard);
__attribute__((weak, visibility("default"))) int32_t aoti_torch_delete_cuda_stream_guard(void *guard);
}

namespace mlip {

// Whether torch can run on a stream that it did not make.
inline bool takes_streams()
{
  return aoti_torch_create_cuda_stream_guard != nullptr && aoti_torch_delete_cuda_stream_guard != nullptr;
}

// The stream on which an execution space of Kokkos runs its kernels; false where it has none, as on a host.
template <class Space> bool stream_of(const Space &space, void *&stream)
{
  if constexpr (requires { space.cuda_stream(); })
    stream = space.cuda_stream();
  else if constexpr (requires { space.hip_stream(); })
    stream = space.hip_stream();
  else
    return false;
  return true;
}

// Makes a stream torch's current one, and its GPU the current one, while it lives; without a stream nothing.
class StreamGuard {
 public:
  StreamGuard(void *const *stream, int device)
  {
    if (stream == nullptr) return;
    if (!takes_streams()) throw std::runtime_error("stream must be none with this torch, which takes no streams");
    if (aoti_torch_create_cuda_stream_guard(*stream, device, &guard) != 0)
      throw std::runtime_error("stream must be one of GPU " + std::to_string(device) + ", got one that torch refuses");
  }
  ~StreamGuard()
  {
    if (guard != nullptr) aoti_torch_delete_cuda_stream_guard(guard);
  }
  StreamGuard(const StreamGuard &) = delete;
  StreamGuard &operator=(const StreamGuard &) = delete;

 private:
  void *guard = nullptr;
};

}    // namespace mlip

#endif

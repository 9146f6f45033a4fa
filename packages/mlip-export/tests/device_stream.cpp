// A call of an exported model on the stream of its caller, with torch's functions for that replaced by a record; and the
// stream of an execution space.

#include "device_stream.h"
#include "edge_potential.h"

#include <iostream>
#include <string>
#include <vector>

static std::string record;
static bool refuses = false;

extern "C" int32_t aoti_torch_create_cuda_stream_guard(void *stream, int32_t device, void **guard)
{
  static int guards = 0;
  if (refuses) return 1;
  record += "stream " + std::to_string(reinterpret_cast<std::uintptr_t>(stream)) + " of " + std::to_string(device) + "; ";
  *guard = &guards;
  return 0;
}
extern "C" int32_t aoti_torch_delete_cuda_stream_guard(void *) { record += "left; "; return 0; }

struct OnCuda { void *cuda_stream() const { return reinterpret_cast<void *>(8); } };
struct OnHip { void *hip_stream() const { return reinterpret_cast<void *>(16); } };
struct OnHost {};

int main(int, char **words)
{
  void *stream = nullptr;
  if (!mlip::stream_of(OnCuda(), stream) || stream != reinterpret_cast<void *>(8)) return 2;
  if (!mlip::stream_of(OnHip(), stream) || stream != reinterpret_cast<void *>(16)) return 3;
  if (mlip::stream_of(OnHost(), stream)) return 4;
  if (!mlip::takes_streams()) return 5;

  mlip::EdgePotential potential(words[1], 0);    // of H and O, for a CPU
  const std::vector<double> vectors = {1.0, 0.0, 0.0, -1.0, 0.0, 0.0};
  const std::vector<int64_t> index = {0, 1, 3, 2}, types = {0, 1, 0, 1}, wrong = {0};
  std::vector<double> plain(4), found(4), plain_forces(6), forces(6);
  potential.evaluate_on_device(vectors.data(), index.data(), 2, types.data(), 4, plain.data(), plain_forces.data());
  if (!record.empty()) return 6;
  potential.evaluate_on_device(vectors.data(), index.data(), 2, types.data(), 4, found.data(), forces.data(), &stream);
  if (found != plain || forces != plain_forces || forces[0] == 0.0) return 7;
  std::cout << record;

  record.clear();    // an error leaves the stream too
  try {
    potential.evaluate_on_device(vectors.data(), index.data(), 2, wrong.data(), 1, found.data(), forces.data(), &stream);
    return 8;
  } catch (const std::runtime_error &) {
  }
  std::cout << record;
  refuses = true;
  try {
    potential.evaluate_on_device(vectors.data(), index.data(), 2, types.data(), 4, found.data(), forces.data(), &stream);
    return 9;
  } catch (const std::runtime_error &error) {
    std::cout << error.what() << std::endl;
  }
}

// Vectors of channels, whole or in part.

#ifndef EQUITENSOR_VEC_H  // Inductor puts all kernels of an artifact into one file
#define EQUITENSOR_VEC_H

namespace equitensor {

template <typename T>
using Vec = at::vec::Vectorized<T>;

// V whole vectors, or one of which only `count` lanes exist.
template <typename T, bool Whole>
inline Vec<T> load(const T* p, int count) {
  if constexpr (Whole) return Vec<T>::loadu(p);
  return Vec<T>::loadu(p, count);
}

template <typename T, bool Whole>
inline void store(const Vec<T>& v, T* p, int count) {
  if constexpr (Whole) v.store(p);
  else v.store(p, count);
}

}  // namespace equitensor

#endif

// The tensor product, one path after the other. A path P has generated members: P::size, the number of components of its
// result, and P::step, which computes them from those of a and b for one vector of channels.

#ifndef EQUITENSOR_TENSOR_PRODUCT_H
#define EQUITENSOR_TENSOR_PRODUCT_H

namespace equitensor {

// out (+)= w t
template <typename P, typename T, bool Coupled, bool Add, bool Whole>
inline void put(const T* a, const T* b, const T* w, T* out, int64_t C, int count) {
  Vec<T> t[P::size];
  P::template step<T, Whole>(a, b, C, count, t);
  const Vec<T> factor = Coupled ? load<T, Whole>(w, count) : Vec<T>(*w);
#pragma GCC unroll 64
  for (int k = 0; k < P::size; ++k) {
    const Vec<T> v = Add ? at::vec::fmadd(factor, t[k], load<T, Whole>(out + k * C, count)) : factor * t[k];
    store<T, Whole>(v, out + k * C, count);
  }
}

// The same for all channels.
template <typename P, typename T, bool Coupled, bool Add>
__attribute__((noinline)) void path(const T* a, const T* b, const T* w, T* out, int64_t C) {
  constexpr int L = Vec<T>::size();
  int64_t u = 0;
  for (; u + L <= C; u += L) put<P, T, Coupled, Add, true>(a + u, b + u, w + (Coupled ? u : 0), out + u, C, 0);
  if (u < C) put<P, T, Coupled, Add, false>(a + u, b + u, w + (Coupled ? u : 0), out + u, C, C - u);
}

// sum over k of g t
template <typename P, typename T, bool Whole>
inline Vec<T> dot(const T* a, const T* b, const T* g, int64_t C, int count) {
  Vec<T> t[P::size];
  P::template step<T, Whole>(a, b, C, count, t);
  Vec<T> sum = load<T, Whole>(g, count) * t[0];
#pragma GCC unroll 64
  for (int k = 1; k < P::size; ++k) sum = at::vec::fmadd(load<T, Whole>(g + k * C, count), t[k], sum);
  return sum;
}

// out[u] = sum over rows z, for one vector of channels.
template <typename P, typename T, bool Whole>
inline void path_sum_at(
    const T* a, int64_t a_row, const T* b, int64_t b_row, const T* g, int64_t g_row, int64_t rows, T* out, int64_t C,
    int count) {
  Vec<T> sum(T(0));
  for (int64_t z = 0; z < rows; ++z)
    sum = sum + dot<P, T, Whole>(a + z * a_row, b + z * b_row, g + z * g_row, C, count);
  store<T, Whole>(sum, out, count);
}

// The same for all channels.
template <typename P, typename T>
__attribute__((noinline)) void path_sum(
    const T* a, int64_t a_row, const T* b, int64_t b_row, const T* g, int64_t g_row, int64_t rows, T* out, int64_t C) {
  constexpr int L = Vec<T>::size();
  int64_t u = 0;
  for (; u + L <= C; u += L)
    path_sum_at<P, T, true>(a + u, a_row, b + u, b_row, g + u, g_row, rows, out + u, C, 0);
  if (u < C) path_sum_at<P, T, false>(a + u, a_row, b + u, b_row, g + u, g_row, rows, out + u, C, C - u);
}

}  // namespace equitensor

#endif

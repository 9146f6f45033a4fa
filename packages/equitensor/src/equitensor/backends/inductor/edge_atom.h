// The edge-atom sums: a tile of one atom's components and channels stays in registers while its edges pass by.

#ifndef EQUITENSOR_EDGE_ATOM_H
#define EQUITENSOR_EDGE_ATOM_H

namespace equitensor {

// Vectors of channels per tile of K components: as many as leave the sums in registers.
template <typename T>
constexpr int vectors(int components) {
  const int registers = Vec<T>::size() * sizeof(T) >= 64 ? 24 : 12;
  return 4 * components <= registers ? 4 : 2 * components <= registers ? 2 : 1;
}

inline int64_t thread_number() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

inline int64_t thread_count() {
#ifdef _OPENMP
  return omp_get_num_threads();
#else
  return 1;
#endif
}

// The first atom whose edges begin at or after `edge`; N for the last thread's end.
inline int64_t atom_at(const int64_t* offsets, int64_t atoms, int64_t edge) {
  return std::lower_bound(offsets, offsets + atoms, edge) - offsets;
}

// out[k, u] = sum over edges of w[e, u] y[e, k], or of w[e, u] scale[e, u] y[e, k]
template <typename T, int K, int V, bool Whole, bool Scaled>
inline void atom_tile(
    const T* w, int64_t w_row, const T* y, int64_t y_row, const T* scale, int64_t scale_row, int64_t edges, T* out,
    int64_t out_row, int count) {
  constexpr int L = Vec<T>::size();
  Vec<T> sum[K * V];
#pragma GCC unroll 64
  for (int i = 0; i < K * V; ++i) sum[i] = Vec<T>(T(0));
  for (int64_t e = 0; e < edges; ++e) {
    Vec<T> row[V];
#pragma GCC unroll 64
    for (int v = 0; v < V; ++v) {
      row[v] = load<T, Whole>(w + e * w_row + v * L, count);
      if constexpr (Scaled) row[v] = row[v] * load<T, Whole>(scale + e * scale_row + v * L, count);
      __builtin_prefetch(w + (e + edges) * w_row + v * L, 0, 2);  // about where the next atom's edges lie
    }
#pragma GCC unroll 64
    for (int k = 0; k < K; ++k) {
      const Vec<T> b(y[e * y_row + k]);
#pragma GCC unroll 64
      for (int v = 0; v < V; ++v) sum[k * V + v] = at::vec::fmadd(b, row[v], sum[k * V + v]);
    }
  }
#pragma GCC unroll 64
  for (int k = 0; k < K; ++k)
#pragma GCC unroll 64
    for (int v = 0; v < V; ++v) store<T, Whole>(sum[k * V + v], out + k * out_row + v * L, count);
}

// sum[u] = sum over k of y[k] f[k, u]
template <typename T, int K, int V, bool Whole>
inline void block_sum(const T* y, const T* f, int64_t channels, Vec<T>* sum, int count) {
  constexpr int L = Vec<T>::size();
#pragma GCC unroll 64
  for (int v = 0; v < V; ++v) sum[v] = Vec<T>(T(0));
#pragma GCC unroll 64
  for (int k = 0; k < K; ++k) {
    const Vec<T> b(y[k]);
#pragma GCC unroll 64
    for (int v = 0; v < V; ++v)
      sum[v] = at::vec::fmadd(b, load<T, Whole>(f + k * channels + v * L, count), sum[v]);
  }
}

// out[u] = sum over k of y[k] f[k, u], times scale[u]
template <typename T, int K, int V, bool Whole, bool Scaled>
inline void weight_sum(const T* y, const T* f, int64_t channels, const T* scale, T* out, int count) {
  constexpr int L = Vec<T>::size();
  Vec<T> sum[V];
  block_sum<T, K, V, Whole>(y, f, channels, sum, count);
#pragma GCC unroll 64
  for (int v = 0; v < V; ++v) {
    if constexpr (Scaled) sum[v] = sum[v] * load<T, Whole>(scale + v * L, count);
    store<T, Whole>(sum[v], out + v * L, count);
  }
}

// out[u] = sum over blocks of w[block, u] times the sum over the block's k of y[k] f[k, u]
template <typename T, int V, bool Whole, int... Sizes>
inline void scalar_sum(const T* w, const T* y, const T* f, int64_t channels, T* out, int count) {
  constexpr int L = Vec<T>::size();
  Vec<T> total[V], sum[V];
#pragma GCC unroll 64
  for (int v = 0; v < V; ++v) total[v] = Vec<T>(T(0));
  int64_t block = 0, first = 0;
  const auto add = [&](auto size) {
    block_sum<T, decltype(size)::value, V, Whole>(y + first, f + first * channels, channels, sum, count);
#pragma GCC unroll 64
    for (int v = 0; v < V; ++v)
      total[v] = at::vec::fmadd(load<T, Whole>(w + block * channels + v * L, count), sum[v], total[v]);
    block += 1;
    first += size;
  };
  (add(std::integral_constant<int, Sizes>{}), ...);
#pragma GCC unroll 64
  for (int v = 0; v < V; ++v) store<T, Whole>(total[v], out + v * L, count);
}

// Sums of the pairs of neighboring lanes, a's in the lower half and b's in the upper.
template <typename T>
inline Vec<T> pairs(const Vec<T>& a, const Vec<T>& b) {
  const auto split = at::vec::deinterleave2(a, b);
  return split.first + split.second;
}

// Folds vectors until lane j of the first holds the sum of the lanes of vector j; Width lanes, Live vectors.
template <typename T, int Live, int Width>
inline void fold(Vec<T>* sums) {
  if constexpr (Width > 1) {
#pragma GCC unroll 64
    for (int j = 0; j < (Live + 1) / 2; ++j)
      sums[j] = pairs<T>(sums[2 * j], 2 * j + 1 < Live ? sums[2 * j + 1] : Vec<T>(T(0)));
    fold<T, (Live + 1) / 2, Width / 2>(sums);
  }
}

// out[k] = sum of the lanes of vector k, for any number K of vectors.
template <typename T, int K>
inline void fold_all(Vec<T>* sums, T* out) {
  constexpr int L = Vec<T>::size(), Now = K < L ? K : L;
  fold<T, Now, L>(sums);
  if constexpr (Now == L) sums[0].store(out);
  else sums[0].store(out, Now);
  if constexpr (K > L) fold_all<T, K - L>(sums + L, out + L);
}

// out[e, k] = sum over channels of w[e, block(k), u] f[k, u], or of that times scale[e, u]
template <typename T, bool Scaled, int... Block>
inline void basis_rows(
    const T* w, int64_t w_row, const T* f, int64_t channels, const T* scale, int64_t scale_row, int64_t edges, T* out,
    int64_t out_row) {
  constexpr int L = Vec<T>::size(), K = sizeof...(Block);
  constexpr int block[] = {Block...};
  constexpr int ahead = 24;
  for (int64_t e = 0; e < edges; ++e) {
    const T* row = w + e * w_row;
    Vec<T> sum[K];
#pragma GCC unroll 64
    for (int k = 0; k < K; ++k) sum[k] = Vec<T>(T(0));
    int64_t u = 0;
    for (; u + L <= channels; u += L) {
      Vec<T> weights;
#pragma GCC unroll 64
      for (int k = 0; k < K; ++k) {
        const T* p = row + block[k] * channels + u;
        if (k == 0 || block[k] != block[k - 1]) {
          __builtin_prefetch(p + ahead * w_row, 0, 3);
          weights = Vec<T>::loadu(p);
          if constexpr (Scaled) weights = weights * Vec<T>::loadu(scale + e * scale_row + u);
        }
        sum[k] = at::vec::fmadd(weights, Vec<T>::loadu(f + k * channels + u), sum[k]);
      }
    }
    const int rest = static_cast<int>(channels - u);
    if (rest)
#pragma GCC unroll 64
      for (int k = 0; k < K; ++k) {
        Vec<T> weights = Vec<T>::loadu(row + block[k] * channels + u, rest);
        if constexpr (Scaled) weights = weights * Vec<T>::loadu(scale + e * scale_row + u, rest);
        sum[k] = at::vec::fmadd(weights, Vec<T>::loadu(f + k * channels + u, rest), sum[k]);
      }
    fold_all<T, K>(sum, out + e * out_row);
  }
}

}  // namespace equitensor

#endif
